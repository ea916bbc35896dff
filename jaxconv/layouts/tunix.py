"""Tunix: nnx models of their own, projections with heads as axes; values as in Hugging Face.

Source: google-tunix 0.1.7 models/*/params.py and params_safetensors.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxconv.checkpoint import Checkpoint, TensorRef
from jaxconv.errors import LayoutError
from jaxconv.json_files import JsonObject
from jaxconv.layouts._heads import EINSUM, GEMMA1_NORMS, GEMMA_NORMS, Rows, embedder_rules, layer_rules
from jaxconv.layouts._rules import Rule, apply_rules, axis_sizes, undo_rules

NAME = "tunix"

MLP: Rows = {
    "mlp.gate_proj.kernel": ("D F", ("mlp.gate_proj.weight",), "F D"),
    "mlp.up_proj.kernel": ("D F", ("mlp.up_proj.weight",), "F D"),
    "mlp.down_proj.kernel": ("F D", ("mlp.down_proj.weight",), "D F"),
}
PROJECTIONS: Rows = {
    "attn.q_proj.w": ("D N H", ("self_attn.q_proj.weight",), "N.H D"),
    "attn.k_proj.w": ("D G H", ("self_attn.k_proj.weight",), "G.H D"),
    "attn.v_proj.w": ("D G H", ("self_attn.v_proj.weight",), "G.H D"),
    "attn.o_proj.w": ("N H D", ("self_attn.o_proj.weight",), "D N.H"),
    "attn.q_norm.w": ("H", ("self_attn.q_norm.weight",), "H"),
    "attn.k_norm.w": ("H", ("self_attn.k_norm.weight",), "H"),
    "input_layernorm.w": ("D", ("input_layernorm.weight",), "D"),
    "post_attention_layernorm.w": ("D", ("post_attention_layernorm.weight",), "D"),
}
BIASES: Rows = {
    "attn.q_bias": ("Q", ("self_attn.q_proj.bias",), "Q"),
    "attn.k_bias": ("K", ("self_attn.k_proj.bias",), "K"),
    "attn.v_bias": ("K", ("self_attn.v_proj.bias",), "K"),
}
LAYERS: Mapping[str, Rows] = {
    "llama": {**PROJECTIONS, **MLP},
    "qwen2": {**PROJECTIONS, **BIASES, **MLP},
    "qwen3": {**PROJECTIONS, **MLP},
    "gemma": {**EINSUM, **GEMMA1_NORMS, **MLP},
    "gemma2": {**EINSUM, **GEMMA_NORMS, **MLP},
    "gemma3_text": {**EINSUM, **GEMMA_NORMS, **MLP},
}


def matches(checkpoint: Checkpoint) -> bool:
    """Whether `checkpoint` has an embedder and a list of layers."""
    return "embedder.input_embedding" in checkpoint.tensors and any(
        n.startswith("layers.0.attn.") for n in checkpoint.tensors
    )


def to_hf(checkpoint: Checkpoint, config: JsonObject) -> Checkpoint:
    """The tensors under Hugging Face names and in their shapes.

    Args:
        checkpoint: The checkpoint as its reader opened it.
        config: The language model's config.

    Raises:
        LayoutError: Tunix does not have the family, or a tensor does not fit the table.
    """
    return apply_rules(checkpoint, rules(config), _sizes(config), NAME)


def inverse(output: Checkpoint, raw: Checkpoint, config: JsonObject) -> dict[str, TensorRef]:
    """See `jaxconv.layouts.from_hf`.

    Args:
        output: Tensors under Hugging Face names.
        raw: The source as its reader opened it.
        config: The language model's config.

    Raises:
        LayoutError: As for `to_hf`, or `output` has only some of the parts of a raw tensor.
    """
    return undo_rules(output, raw, rules(config), _sizes(config))


def _sizes(config: JsonObject) -> dict[str, int]:
    sizes = axis_sizes(config)
    return sizes | {"Q": sizes["N"] * sizes["H"], "K": sizes["G"] * sizes["H"]}


def rules(config: JsonObject) -> list[Rule]:
    """The table for the language model's `config`.

    Raises:
        LayoutError: Tunix does not have the family.
    """
    family = str(config.get("model_type"))
    if family not in LAYERS:
        raise LayoutError(f"layout {NAME} has no table for {family}; expected one of: {', '.join(LAYERS)}. Check --base.")
    norm = "final_norm.scale" if family.startswith("gemma") else "final_norm.w"
    head = Rule("lm_head.w", "D W", ("lm_head.weight",), "V D")
    return [*embedder_rules(norm), head, *layer_rules("layers.{i}", LAYERS[family])]
