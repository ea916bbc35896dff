"""MaxText: layers scanned on axis 1 or one by one, heads as axes of their own, values that its model folds in.

Source: maxtext 0.2.5 checkpoint_conversion/utils/param_mapping.py. What MaxText changes by family: queries divided by
sqrt(head_dim) (Llama, Mistral, Gemma2), rotary pairs side by side (Llama 3.1), norms plus one and the embedding
times sqrt(hidden_size) (Gemma2, Gemma3), a padded vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxconv.checkpoint import Checkpoint, TensorRef
from jaxconv.errors import LayoutError
from jaxconv.json_files import JsonObject
from jaxconv.layouts._rules import Rule, apply_rules, axis_sizes, undo_rules

NAME = "maxtext"
SIGNATURE = ("token_embedder.embedding", "decoder.decoder_norm.scale")
SCAN_AXIS = 1

# Name in a layer -> (axes, name in a Hugging Face layer, its axes).
ATTENTION = {
    "self_attention.query.kernel": ("D N H", "self_attn.q_proj.weight", "N.H D"),
    "self_attention.key.kernel": ("D G H", "self_attn.k_proj.weight", "G.H D"),
    "self_attention.value.kernel": ("D G H", "self_attn.v_proj.weight", "G.H D"),
    "self_attention.out.kernel": ("N H D", "self_attn.o_proj.weight", "D N.H"),
    "self_attention.query.bias": ("N H", "self_attn.q_proj.bias", "N.H"),
    "self_attention.key.bias": ("G H", "self_attn.k_proj.bias", "G.H"),
    "self_attention.value.bias": ("G H", "self_attn.v_proj.bias", "G.H"),
    "self_attention.query_norm.scale": ("H", "self_attn.q_norm.weight", "H"),
    "self_attention.key_norm.scale": ("H", "self_attn.k_norm.weight", "H"),
}
MLP = {
    "mlp.wi_0.kernel": ("D F", "mlp.gate_proj.weight", "F D"),
    "mlp.wi_1.kernel": ("D F", "mlp.up_proj.weight", "F D"),
    "mlp.wo.kernel": ("F D", "mlp.down_proj.weight", "D F"),
}
TWO_NORMS = {
    "pre_self_attention_layer_norm.scale": ("D", "input_layernorm.weight", "D"),
    "post_self_attention_layer_norm.scale": ("D", "post_attention_layernorm.weight", "D"),
}
FOUR_NORMS = {
    "pre_self_attention_norm.scale": ("D", "input_layernorm.weight", "D"),
    "post_self_attention_norm.scale": ("D", "post_attention_layernorm.weight", "D"),
    "pre_ffw_norm.scale": ("D", "pre_feedforward_layernorm.weight", "D"),
    "post_ffw_norm.scale": ("D", "post_feedforward_layernorm.weight", "D"),
}
QUERY, KEY, EMBEDDING = "self_attn.q_proj.weight", "self_attn.k_proj.weight", "model.embed_tokens.weight"
HALVES_TAKEN = (
    "the config has no rope type llama3, so rotary dimensions are taken in halves, as MaxText keeps Llama 2's; a model "
    "trained under MaxText's name llama3.1 pairs them: then pass --layout maxtext-llama3.1."
)
HALVES, SQRT_H = ("rope in halves",), ("times sqrt(H)",)


@dataclass(frozen=True, slots=True)
class Block:
    """Where layers lie: a prefix, whether they are stacked, a suffix of each module, and the layer's number."""

    prefix: str
    stacked: bool
    layer: tuple[int, int, int] = (1, 1, 0)
    suffix: str = ""


SCANNED, UNSCANNED = Block("decoder.layers", True), Block("decoder.layers_{i}", False)
PAIRS = tuple(
    Block(prefix, stacked, (2, 2, offset), suffix)
    for prefix, stacked in (("decoder.layers", True), ("decoder.layers_{i}", False))
    for offset, suffix in enumerate(("_local", "_global"))
)


@dataclass(frozen=True, slots=True)
class Variant:
    """What MaxText does with one family; `values` by Hugging Face name in the layer (or the whole name)."""

    layers: Mapping[str, tuple[str, str, str]]
    blocks: tuple[Block, ...] = (SCANNED, UNSCANNED)
    values: Mapping[str, tuple[str, ...]] | None = None
    norms: tuple[str, ...] = ()


PLAIN = {**ATTENTION, **MLP, **TWO_NORMS}
GEMMA_LAYERS = {**ATTENTION, **MLP, **FOUR_NORMS}
# MaxText rounds the root to bfloat16 for Gemma3, and to float32 for Gemma2.
ROOT_D, ROUNDED_ROOT_D = {EMBEDDING: ("over sqrt(D)",)}, {EMBEDDING: ("over bfloat16 sqrt(D)",)}
VARIANTS: Mapping[str, Variant] = {
    "llama": Variant(PLAIN, values={QUERY: SQRT_H}),
    "llama3.1": Variant(PLAIN, values={QUERY: SQRT_H + HALVES, KEY: HALVES}),
    "mistral": Variant(PLAIN, values={QUERY: SQRT_H}),
    "qwen2": Variant(PLAIN),
    "qwen3": Variant(PLAIN),
    "gemma2": Variant(GEMMA_LAYERS, PAIRS, {QUERY: SQRT_H, **ROOT_D}, ("minus one",)),
    "gemma3_text": Variant(GEMMA_LAYERS, values=ROUNDED_ROOT_D, norms=("minus one",)),
}


def matches(checkpoint: Checkpoint) -> bool:
    """Whether `checkpoint` has MaxText's embedder and final norm."""
    return all(name in checkpoint.tensors for name in SIGNATURE)


def to_hf(checkpoint: Checkpoint, config: JsonObject) -> Checkpoint:
    """The tensors under Hugging Face names, in their shapes and with their values.

    Args:
        checkpoint: The checkpoint as its reader opened it.
        config: The language model's config.

    Raises:
        LayoutError: MaxText's mapping does not have the family, or a tensor does not fit the table.
    """
    converted = apply_rules(checkpoint, rules(config), axis_sizes(config), NAME)
    return replace(converted, notes=(*converted.notes, HALVES_TAKEN)) if variant_name(config) == "llama" else converted


def inverse(output: Checkpoint, raw: Checkpoint, config: JsonObject) -> dict[str, TensorRef]:
    """See `jaxconv.layouts.from_hf`.

    Args:
        output: Tensors under Hugging Face names.
        raw: The source as its reader opened it.
        config: The language model's config.

    Raises:
        LayoutError: As for `to_hf`, or `output` has only some of the parts of a raw tensor.
    """
    return undo_rules(output, raw, rules(config), axis_sizes(config))


def rules(config: JsonObject, name: str | None = None) -> list[Rule]:
    """The table for a config.

    Args:
        config: The language model's config.
        name: A row of VARIANTS to take instead of the config's.

    Raises:
        LayoutError: VARIANTS does not have the row.
    """
    variant = VARIANTS.get(name or variant_name(config))
    if variant is None:
        raise LayoutError(
            f"layout {NAME} has no table for {config.get('model_type')}; expected one of: {', '.join(VARIANTS)}. "
            "Export that model with MaxText's own to_huggingface."
        )
    values = variant.values or {}
    blocks = variant.blocks if config["model_type"] != "gemma3_text" else _sixes(config["num_hidden_layers"])
    return [
        Rule("token_embedder.embedding", "W D", (EMBEDDING,), "V D", values.get(EMBEDDING, ())),
        Rule("decoder.decoder_norm.scale", "D", ("model.norm.weight",), "D", variant.norms),
        Rule("decoder.logits_dense.kernel", "D W", ("lm_head.weight",), "V D"),
        *(_rule(block, name, row, values, variant.norms) for block in blocks for name, row in variant.layers.items()),
    ]


def variant_name(config: JsonObject) -> str:
    """The row of VARIANTS for a language model's `config`.

    MaxText's rope_type llama3.1, Hugging Face's llama3, pairs dimensions side by side.
    """
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    llama3 = config.get("model_type") == "llama" and (scaling.get("rope_type") or scaling.get("type")) == "llama3"
    return "llama3.1" if llama3 else str(config.get("model_type"))


def _sixes(layers: int) -> tuple[Block, ...]:
    """Gemma3's blocks of five local layers and a global one: six stacks and what is left over."""
    whole = layers // 6 * 6
    return (
        Block("decoder.layers.layers_{i}", True, (6, 1, 0)),
        Block("decoder.layers_remainder.layers_{i}", False, (0, 1, whole)),
        UNSCANNED,
    )


def _rule(
    block: Block, name: str, row: tuple[str, str, str], values: Mapping[str, tuple[str, ...]], norms: tuple[str, ...]
) -> Rule:
    axes, hf, hf_axes = row
    module, _, leaf = name.partition(".")
    symbols = axes.split()
    if block.stacked:
        symbols.insert(SCAN_AXIS, "L")
    changes = norms if hf.endswith("norm.weight") else values.get(hf, ())
    foreign = f"{block.prefix}.{module}{block.suffix}.{leaf}"
    return Rule(foreign, " ".join(symbols), (f"model.layers.{{i}}.{hf}",), hf_axes, changes, block.layer)
