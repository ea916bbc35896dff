"""The gemma library: einsum names, nested, flat or stacked by the attention pattern; values as in Hugging Face.

Source: gemma 3.3 gm/ckpts/_checkpoint.py and gm/nn. The gating einsum is [2, F, D] or [2, D, F]
depending on the model; its shape tells which.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxconv.checkpoint import Checkpoint, TensorRef
from jaxconv.errors import LayoutError
from jaxconv.json_files import JsonObject
from jaxconv.layouts._heads import EINSUM, GEMMA1_NORMS, GEMMA_NORMS, Rows, embedder_rules, layer_rules
from jaxconv.layouts._rules import Rule, apply_rules, axis_sizes, undo_rules

NAME = "gemma"
ROOT = "transformer."
PATTERN = 6  # layers of one repetition of the attention pattern in stacked checkpoints
GATING = ("mlp.gate_proj.weight", "mlp.up_proj.weight")
MLP: Rows = {
    "mlp.gating_einsum": ("P F D", GATING, "F D"),
    "mlp.gating_einsum.w": ("P F D", GATING, "F D"),
    "mlp.linear": ("F D", ("mlp.down_proj.weight",), "D F"),
    "mlp.linear.w": ("F D", ("mlp.down_proj.weight",), "D F"),
}
TRANSPOSED_GATING: Rows = {name: ("P D F", GATING, "F D") for name in MLP if "gating" in name}
LAYERS: Mapping[str, Rows] = {
    "gemma": {**EINSUM, **GEMMA1_NORMS, **MLP},
    "gemma2": {**EINSUM, **GEMMA_NORMS, **MLP},
    "gemma3_text": {**EINSUM, **GEMMA_NORMS, **MLP},
}


def matches(checkpoint: Checkpoint) -> bool:
    """Whether `checkpoint` has an embedder, and layers that are numbered in their name or stacked."""
    names = {name.removeprefix(ROOT) for name in checkpoint.tensors}
    return "embedder.input_embedding" in names and any(name.startswith(("layer_0.", "stacked_layers.")) for name in names)


def to_hf(checkpoint: Checkpoint, config: JsonObject) -> Checkpoint:
    """The tensors under Hugging Face names and in their shapes.

    Args:
        checkpoint: The checkpoint as its reader opened it.
        config: The language model's config.

    Raises:
        LayoutError: The library does not have the family, or a tensor does not fit the table or fits it in two ways.
    """
    return apply_rules(_without_root(checkpoint), rules(config), axis_sizes(config), NAME)


def inverse(output: Checkpoint, raw: Checkpoint, config: JsonObject) -> dict[str, TensorRef]:
    """See `jaxconv.layouts.from_hf`.

    Args:
        output: Tensors under Hugging Face names.
        raw: The source as its reader opened it.
        config: The language model's config.

    Raises:
        LayoutError: As for `to_hf`, or `output` has only some of the parts of a raw tensor.
    """
    restored = undo_rules(output, _without_root(raw), rules(config), axis_sizes(config))
    full_names = {name.removeprefix(ROOT): name for name in raw.tensors}
    return {full_names[name]: ref.renamed(full_names[name]) for name, ref in restored.items()}


def _without_root(checkpoint: Checkpoint) -> Checkpoint:
    tensors = {name.removeprefix(ROOT): ref.renamed(name.removeprefix(ROOT)) for name, ref in checkpoint.tensors.items()}
    return dataclasses.replace(checkpoint, tensors=tensors)


def rules(config: JsonObject) -> list[Rule]:
    """The table for the language model's `config`.

    Raises:
        LayoutError: The library does not have the family.
    """
    family = str(config.get("model_type"))
    if family not in LAYERS:
        raise LayoutError(f"layout {NAME} has no table for {family}; expected one of: {', '.join(LAYERS)}. Check --base.")
    tables = (LAYERS[family], TRANSPOSED_GATING)
    return [
        *embedder_rules("final_norm.scale"),
        *(rule for rows in tables for rule in layer_rules("layer_{i}", rows)),
        *(
            rule
            for rows in tables
            for rule in layer_rules("stacked_layers.attention_type_{i}", rows, layer=(PATTERN, 1, 0), stacked=True)
        ),
    ]
