"""The gemma library: einsum names, nested, flat or stacked by the attention pattern; values as in Hugging Face.

Source: gemma 3.3 gm/ckpts/_checkpoint.py and gm/nn. The gating einsum is [2, F, D] or [2, D, F] by model, which its shape
tells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import LayoutError
from jaxconv.layouts._heads import EINSUM, GEMMA1_NORMS, GEMMA_NORMS, Rows, embedder_rules, layer_rules
from jaxconv.layouts._rules import Rule, apply_rules, axis_sizes

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
    """An embedder, and layers that carry their number in their name or are stacked."""
    names = {name.removeprefix(ROOT) for name in checkpoint.tensors}
    return "embedder.input_embedding" in names and any(name.startswith(("layer_0.", "stacked_layers.")) for name in names)


def to_hf(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    """Hugging Face names and shapes. Raises `LayoutError` for another family or a gating einsum that shape leaves open."""
    tensors = {name.removeprefix(ROOT): ref.renamed(name.removeprefix(ROOT)) for name, ref in checkpoint.tensors.items()}
    return apply_rules(dataclasses.replace(checkpoint, tensors=tensors), rules(config), axis_sizes(config), NAME)


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """The table for a config."""
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
