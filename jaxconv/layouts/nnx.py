"""A plain nnx.Module or Linen tree with Hugging Face's paths: kernel [in, out] (or with heads as axes), embedding, scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxconv.checkpoint import Checkpoint
from jaxconv.layouts._leaves import Leaves, rename_leaves

NAME = "nnx"
FORMATS = ("orbax", "live")
LEAVES: Leaves = {
    "kernel": ("weight", (2, 3)),
    "embedding": ("weight", (2,)),
    "scale": ("weight", (1,)),
    "weight": ("weight", (1,)),
    "bias": ("bias", (1, 2)),
}


def matches(checkpoint: Checkpoint) -> bool:
    """Hugging Face's embedding path in a tree that is not transformers' own."""
    return checkpoint.format in FORMATS and any(
        name.removeprefix("model.").startswith("embed_tokens.") for name in checkpoint.tensors
    )


def to_hf(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    """Hugging Face names and shapes; `model.` is put before the names of a module that has no such level."""
    bare = not any(name.startswith("model.") for name in checkpoint.tensors)
    names = {name: f"model.{name}" if bare and not name.startswith("lm_head.") else name for name in checkpoint.tensors}
    return rename_leaves(checkpoint, names, LEAVES, NAME)
