"""A Hugging Face config -> the frozen description that the decoder is built from. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxconv.errors import SourceError, UsageError
from jaxconv.families import language_model, num_experts, with_defaults
from jaxconv.families.values import MAX_LAYERS, integer
from jaxconv.json_files import JsonObject, is_finite_number
from jaxconv.models.config_types import check_types

SUPPORTED = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "qwen3_moe", "mixtral",
)  # fmt: skip
GEMMAS = ("gemma", "gemma2", "gemma3_text")
WINDOWED_BY_FLAG = ("qwen2", "qwen3", "qwen3_moe")  # a sliding_window without use_sliding_window has no effect
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh")
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
LENGTH_DEPENDENT = ("dynamic", "longrope")
NO_WINDOW = 2**30


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding of a layer kind; `options` holds the scaling's own numbers."""

    kind: str
    theta: float
    dim: int
    max_positions: int
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Moe:
    """Mixture of experts: how many, how many a token takes, whether their weights are made to sum to one."""

    num_experts: int
    top_k: int
    normalise: bool


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Everything that decides the arithmetic of a decoder. Per-layer facts are tuples of length `num_layers`."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    activation: str
    scale: float
    windows: tuple[int, ...]
    rope_of_layer: tuple[int, ...]
    ropes: tuple[Rope, ...]
    moe_layers: tuple[bool, ...]
    moe: Moe | None = None
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    gemma: bool = False
    four_norms: bool = False
    fused: bool = False
    softcap: float | None = None

    @property
    def prefix_is_reusable(self) -> bool:
        """Whether a token's keys are the same in every sequence that begins alike: no rotation depends on the length."""
        return not any(rope.kind in LENGTH_DEPENDENT for rope in self.ropes)


def decoder_config(config: JsonObject) -> DecoderConfig:
    """Reads a config.json, in the spelling of transformers 4 or 5.

    Raises `UsageError` for a family or option that this decoder does not run (the torch backend may), and
    `SourceError` when a number that it needs is absent.
    """
    config = with_defaults(language_model(config))
    check_types(config)
    kind = str(config.get("model_type"))
    if kind not in SUPPORTED:
        raise _unsupported(f"model_type {kind!r}", ", ".join(SUPPORTED))
    if config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        raise _unsupported("bidirectional attention", "causal attention")
    layers, heads = integer(config, "num_hidden_layers", limit=MAX_LAYERS), integer(config, "num_attention_heads")
    hidden = integer(config, "hidden_size")
    head_dim = config.get("head_dim") or hidden // heads
    if head_dim == 0:
        raise SourceError(f"config.json has {heads} attention heads in {hidden} features; expected fewer. Download it again.")
    layer_types = _layer_types(kind, config, layers)
    ropes, rope_of_layer = _ropes(kind, config, head_dim, layer_types)
    moe = _moe(kind, config)
    bias = bool(config.get("attention_bias", False))
    return DecoderConfig(
        model_type=kind,
        vocab_size=integer(config, "vocab_size"),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=integer(config, "num_key_value_heads") if config.get("num_key_value_heads") else heads,
        head_dim=head_dim,
        eps=_number(config, "rms_norm_eps"),
        activation=_activation(kind, config),
        scale=(_number(config, "query_pre_attn_scalar") if kind in ("gemma2", "gemma3_text") else head_dim) ** -0.5,
        windows=tuple(_window(config, layer) for layer in layer_types),
        rope_of_layer=rope_of_layer,
        ropes=ropes,
        moe_layers=_moe_layers(kind, config, layers),
        moe=moe,
        attention_bias=kind == "qwen2" or (bias and kind not in ("mistral", "mixtral", "phi3")),
        output_bias=bias and kind not in ("qwen2", "mistral", "mixtral", "phi3"),
        mlp_bias=kind == "llama" and bool(config.get("mlp_bias", False)),
        qk_norm=kind in ("qwen3", "qwen3_moe", "gemma3_text"),
        gemma=kind in GEMMAS,
        four_norms=kind in ("gemma2", "gemma3_text"),
        fused=kind == "phi3",
        softcap=_attention_softcap(kind, config),
    )


def _unsupported(option: str, expected: str) -> UsageError:
    return UsageError(f"The JAX model does not run {option}; expected {expected}. Use --backend torch.")


def _number(config: JsonObject, key: str) -> float:
    value = config.get(key)
    if not is_finite_number(value) or value < 0:
        raise SourceError(f"config.json has {key} = {value!r:.80}; expected a number of zero or more.")
    return float(value)


def _attention_softcap(kind: str, config: JsonObject) -> float | None:
    if kind not in ("gemma2", "gemma3_text") or config["attn_logit_softcapping"] is None:
        return None
    return _number(config, "attn_logit_softcapping")


def _activation(kind: str, config: JsonObject) -> str:
    if kind in GEMMAS:  # the first Gemma's "hidden_act": "gelu" was a mistake that loaders correct
        name = config["hidden_activation"] or "gelu_pytorch_tanh"
    else:
        name = config["hidden_act"] or "silu"
    if name not in ACTIVATIONS:
        raise _unsupported(f"the activation {name!r}", ", ".join(ACTIVATIONS))
    return str(name)


def _layer_types(kind: str, config: JsonObject, layers: int) -> tuple[str, ...]:
    """ "sliding_attention" or "full_attention" for each layer."""
    layer_types = config.get("layer_types")
    sliding, full = "sliding_attention", "full_attention"
    if kind in WINDOWED_BY_FLAG and not config.get("use_sliding_window"):
        return (full,) * layers
    if layer_types is not None and kind not in ("qwen3_moe", "llama", "gemma", "mixtral", "phi3"):
        if len(layer_types) != layers or not set(layer_types) <= {sliding, full}:
            raise _unsupported(f"layer_types {sorted(set(layer_types))} for {layers} layers", f"{sliding}, {full}")
        return tuple(layer_types)
    if kind in ("qwen2", "qwen3"):
        first = _number(config, "max_window_layers")
        return tuple(sliding if i >= first else full for i in range(layers))
    if kind in ("gemma2", "gemma3_text"):
        every = 2 if kind == "gemma2" else integer(config, "sliding_window_pattern")
        return tuple(sliding if (i + 1) % every else full for i in range(layers))
    return (sliding if kind in ("mistral", "mixtral", "phi3", "qwen3_moe") else full,) * layers


def _window(config: JsonObject, layer_type: str) -> int:
    window = config["sliding_window"] if layer_type == "sliding_attention" else None
    return NO_WINDOW if window is None else min(int(window), NO_WINDOW)


def _moe(kind: str, config: JsonObject) -> Moe | None:
    if kind not in ("mixtral", "qwen3_moe"):
        return None
    return Moe(
        num_experts(config), integer(config, "num_experts_per_tok"), kind == "mixtral" or bool(config["norm_topk_prob"])
    )


def _moe_layers(kind: str, config: JsonObject, layers: int) -> tuple[bool, ...]:
    if kind == "qwen3_moe":
        dense, step = config.get("mlp_only_layers") or (), integer(config, "decoder_sparse_step")
        return tuple(i not in dense and (i + 1) % step == 0 for i in range(layers))
    return (kind == "mixtral",) * layers


def _ropes(
    kind: str, config: JsonObject, head_dim: int, layer_types: tuple[str, ...]
) -> tuple[tuple[Rope, ...], tuple[int, ...]]:
    """The different ropes, and which one each layer uses."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if kind != "gemma3_text":
        return (_rope(config, parameters, head_dim, _number(config, "rope_theta")),), (0,) * len(layer_types)
    nested = "full_attention" in parameters or "sliding_attention" in parameters
    full = (parameters.get("full_attention") or {}) if nested else parameters
    local = (parameters.get("sliding_attention") or {}) if nested else {}
    ropes = (
        _rope(config, full, head_dim, _number(config, "rope_theta")),
        _rope(config, local, head_dim, _number(config, "rope_local_base_freq")),
    )
    return ropes, tuple(int(layer == "sliding_attention") for layer in layer_types)


def _rope(config: JsonObject, parameters: JsonObject, head_dim: int, theta: float) -> Rope:
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    rope_type = {"su": "longrope", "mrope": "default"}.get(rope_type, rope_type)  # mrope: three streams, equal for text
    if rope_type not in ROPE_TYPES:
        raise _unsupported(f"rope type {rope_type!r}", ", ".join(ROPE_TYPES))
    partial = parameters.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    max_positions = integer(config, "max_position_embeddings")
    options = {key: value for key, value in parameters.items() if value is not None}
    original = config.get("original_max_position_embeddings") or options.get("original_max_position_embeddings")
    options["original_max_position_embeddings"] = original or max_positions
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return Rope(
        kind=rope_type,
        theta=float(parameters.get("rope_theta") or theta),
        dim=int(head_dim * partial),
        max_positions=max_positions,
        options=tuple(sorted(frozen.items())),
    )
