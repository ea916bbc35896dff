"""A family's row of the table, applied to a config."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxconv.errors import RefusedError, SourceError
from jaxconv.families.table import FAMILIES, LOGIT_KEYS, REFUSED, Row, Shapes

MAX_LAYERS = MAX_EXPERTS = 4096
MAX_SIZE = 1 << 31
# Classes that training runs put around a model and save as its architecture.
WRAPPERS = ("OptimizedModule", "DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine", "DataParallel")
_KEYS = {
    "V": "vocab_size",
    "F": "intermediate_size",
    "M": "moe_intermediate_size",
    "S": "shared_expert_intermediate_size",
}


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What the causal LM does between `hidden @ lm_head.T` and its logits: scale, then bias, then softcap."""

    scale: float = 1.0
    bias: bool = False
    softcap: float | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """A model family: its row of the table, by model type. Methods take the whole config.json."""

    model_type: str
    row: Row

    @property
    def architecture(self) -> str:
        """The causal LM's class."""
        return self.row.architecture

    @property
    def target_architecture(self) -> str:
        """The classifier's class, as vLLM names it."""
        return self.row.target or self.row.architecture.replace("ForCausalLM", "ForSequenceClassification")

    @property
    def transformers_seq_cls(self) -> bool:
        """Whether transformers has a sequence classification class of this family."""
        return self.row.transformers_seq_cls

    @property
    def tie_default(self) -> bool:
        """Whether the head is the embedding when the config does not say."""
        return self.row.tied

    def transform(self, config: Mapping[str, Any]) -> LogitTransform:
        """What follows `hidden @ lm_head.T` in the causal LM.

        Raises `SourceError` for values that are no positive number, `RefusedError` for a key that scales
        logits in other families but not in this one (loaders disagree on it).
        """
        config, row = text_config(config), self.row
        for key, neutral in LOGIT_KEYS.items():
            if key not in (row.multiply, row.divide, row.softcap) and config.get(key) not in neutral:
                raise RefusedError(
                    f"config.json has {key} {config[key]!r}, which {self.architecture} of transformers does not know "
                    f"and other loaders may apply. Remove the key if the model was trained without it."
                )
        scale = 1.0
        if row.multiply:
            scale = _number(config, row.multiply, row.defaults[row.multiply])
        if row.divide:
            scale = 1.0 / _number(config, row.divide, row.defaults[row.divide])
        softcap = None
        if row.softcap and config.get(row.softcap, row.defaults.get(row.softcap)) is not None:
            softcap = _number(config, row.softcap, row.defaults.get(row.softcap))
        return LogitTransform(scale=scale, bias=row.head_bias, softcap=softcap)

    def expected(self, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Every backbone tensor and its shape, by its name in the file, without the head.

        Raises `SourceError` for sizes that are missing or no positive whole numbers.
        """
        config, row = text_config(config), self.row
        patterns = dict(row.tensors)
        for when in row.when:
            if _flag(config, when.key, when.default) == when.value:
                patterns.update(when.tensors)
        sizes = _sizes(config, row)
        layers = _integer(config, "num_hidden_layers", limit=MAX_LAYERS)
        own = _layers_own(config, row, layers)
        needed = {**patterns, **{name: text for shapes in own for name, text in shapes.items()}}
        symbols = {symbol for text in needed.values() for symbol in text.split()}
        for symbol in symbols & _KEYS.keys() | ({"F"} if "2F" in symbols else set()):
            sizes[symbol] = _integer(config, _KEYS[symbol])
        sizes["2F"] = 2 * sizes.get("F", 0)
        if "E" in symbols:
            sizes["E"] = _experts(config, row)
        if "LH" in symbols:
            sizes |= _linear_attention_sizes(config, row)
        shapes = dict(_expand({n: t for n, t in patterns.items() if "{i}" not in n}, 0, sizes))
        per_layer = {n: t for n, t in patterns.items() if "{i}" in n}
        for i in range(layers):
            shapes.update(_expand({**per_layer, **own[i]}, i, sizes))
        return shapes

    def optional(self, config: Mapping[str, Any]) -> frozenset[str]:
        """Names that old files carry and that no model needs: buffers computed from the config."""
        layers = _integer(text_config(config), "num_hidden_layers", limit=MAX_LAYERS)
        rotary = "rotary_emb.inv_freq"
        return frozenset({f"model.{rotary}", *(f"model.layers.{i}.self_attn.{rotary}" for i in range(layers))})


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a config: `text_config` of composite ones, else the config."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def family_for(config: Mapping[str, Any]) -> Family:
    """The family of a config. Raises `RefusedError`, with the reason, for what is no known decoder with a linear head."""
    text = text_config(config)
    model_type, architectures = text.get("model_type"), config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    known = f"Known model types: {', '.join(FAMILIES)}."
    if isinstance(architecture, str) and architecture.endswith("ForSequenceClassification"):
        raise RefusedError(f"the source is a classifier already ({architecture}); vLLM serves it as it is.")
    if config.get("is_encoder_decoder"):
        raise RefusedError(f"{model_type} is an encoder-decoder; its answer is no next token of one decoder. {known}")
    for name in (architecture, model_type, config.get("model_type")):
        if isinstance(name, str) and name in REFUSED:
            raise RefusedError(f"{name} cannot be converted exactly: {REFUSED[name]}.")
    if config.get("quantization_config") or text.get("quantization_config"):
        raise RefusedError(
            "the source is quantised (config.json has quantization_config); expected plain weights. "
            "Convert the original model, then quantise the result without its score layer. If the tensors are plain (a "
            "merged model keeps the key), remove quantization_config from config.json."
        )
    if _bidirectional(text) or _bidirectional(config) or "Bidirectional" in str(architecture):
        raise RefusedError(
            f"the source is bidirectional ({architecture}, see is_causal and use_bidirectional_attention in "
            "config.json); expected a causal LM, whose last token's logits are the answer."
        )
    row = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if row is not None and _is_wrapper(architecture, row.architecture):
        raise RefusedError(
            f"config.json names the class {architecture}, a wrapper of the training run around {row.architecture}; loaders "
            f'look for a model of that name. Set "architectures": ["{row.architecture}"] in config.json.'
        )
    if architecture is not None and not str(architecture).endswith("ForCausalLM"):
        raise RefusedError(f"config.json has architecture {architecture!r}; expected one that ends in ForCausalLM. {known}")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise RefusedError(f"config.json has model_type {model_type!r}, a family that jaxconv does not know. {known}")
    row = FAMILIES[model_type]
    if architecture not in (None, row.architecture):
        raise RefusedError(f"{model_type} with architecture {architecture!r} is not known; expected {row.architecture}.")
    return Family(model_type, row)


def _is_wrapper(architecture: object, expected: str) -> bool:
    """Whether a class name is that of a wrapper: FSDPQwen3ForCausalLM, PeftModelForCausalLM, OptimizedModule."""
    if not isinstance(architecture, str) or architecture == expected:
        return False
    return architecture in WRAPPERS or architecture.startswith("Peft") or architecture.endswith(expected)


def _bidirectional(config: Mapping[str, Any]) -> bool:
    return config.get("is_causal") is False or bool(config.get("use_bidirectional_attention"))


def _integer(config: Mapping[str, Any], key: str, default: int | None = None, *, limit: int = MAX_SIZE) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value <= limit:
        found = repr(value)[:60] if key in config else "nothing"
        raise SourceError(f"config.json has {found} as {key}; expected a whole number from 1 to {limit}.")
    return value


def _number(config: Mapping[str, Any], key: str, default: float | None) -> float:
    value = config.get(key, default)
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise SourceError(f"config.json has {value!r} as {key}; expected a finite number above zero.")
    return float(value)


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool | None):
        raise SourceError(f"config.json has {value!r} as {key}; expected true or false.")
    return bool(value)


def _experts(config: Mapping[str, Any], row: Row) -> int:
    key = "num_local_experts" if "num_local_experts" in config else "num_experts"
    return _integer(config, key, row.defaults.get("num_experts"), limit=MAX_EXPERTS)


def _layers_own(config: Mapping[str, Any], row: Row, layers: int) -> list[Shapes]:
    """What each layer has beside the tensors that all of them have."""
    if row.by_layer_type:
        return [row.by_layer_type[kind] for kind in _layer_types(config, row, layers)]
    sparse = _sparse_layers(config, layers) if row.sparse else frozenset()
    return [row.sparse if i in sparse else row.dense for i in range(layers)]


def _layer_types(config: Mapping[str, Any], row: Row, layers: int) -> list[str]:
    """The kind of each layer: `layer_types`, or by default three layers of linear attention and one of full."""
    every = _integer(config, "full_attention_interval", 4)
    default = ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(layers)]
    types = config.get("layer_types") or default
    if not isinstance(types, list) or len(types) != layers or not set(types) <= row.by_layer_type.keys():
        raise SourceError(
            f"config.json has {types!r:.200} as layer_types; expected {layers} of {', '.join(row.by_layer_type)}."
        )
    return types


def _linear_attention_sizes(config: Mapping[str, Any], row: Row) -> dict[str, int]:
    keys = ("num_key_heads", "key_head_dim", "num_value_heads", "value_head_dim", "conv_kernel_dim")
    found = [_integer(config, f"linear_{key}", row.defaults[f"linear_{key}"]) for key in keys]
    key_width, value_width = found[0] * found[1], found[2] * found[3]
    return {"LH": found[2], "LD": found[3], "LV": value_width, "LC": 2 * key_width + value_width, "LW": found[4]}


def _sparse_layers(config: Mapping[str, Any], layers: int) -> frozenset[int]:
    """The layers whose feed-forward part is a mixture of experts."""
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(i) is int for i in dense):
        raise SourceError(f"config.json has {dense!r} as mlp_only_layers; expected a list of layer numbers.")
    step = _integer(config, "decoder_sparse_step", 1)
    return frozenset(i for i in range(layers) if i not in dense and (i + 1) % step == 0)


def _sizes(config: Mapping[str, Any], row: Row) -> dict[str, int]:
    """Sizes of the attention. An explicit null means what it means to transformers: derived from the heads."""
    hidden, heads = _integer(config, "hidden_size"), _integer(config, "num_attention_heads")
    absent = {key: value for key, value in row.defaults.items() if key not in config}
    head_dim = _integer(config, "head_dim", absent.get("head_dim", hidden // heads))
    kv_heads = _integer(config, "num_key_value_heads", absent.get("num_key_value_heads", heads))
    sizes = {"1": 1, "D": hidden, "H": head_dim, "N": heads, "G": kv_heads}
    query, key = heads * head_dim, kv_heads * head_dim
    return {**sizes, "Q": query, "K": key, "2Q": 2 * query, "Q+2K": query + 2 * key}


def _expand(patterns: Shapes, layer: int, sizes: Mapping[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of one layer."""
    counters = {"{e}": "E", "{n}": "N", "{g}": "G"}
    for pattern, text in patterns.items():
        shape = tuple(sizes[symbol] for symbol in text.split())
        name = pattern.replace("{i}", str(layer))
        counter = next((mark for mark in counters if mark in name), None)
        if counter is None:
            yield name, shape
            continue
        for index in range(sizes[counters[counter]]):
            yield name.replace(counter, str(index)), shape
