"""A plain nnx.Module or Linen tree with Hugging Face's paths: kernel [in, out] (or with heads as axes), embedding, scale."""

from __future__ import annotations

from collections.abc import Iterable

from jaxconv.checkpoint import Checkpoint, TensorRef
from jaxconv.json_files import JsonObject
from jaxconv.layouts._leaves import Leaves, rename_leaves, restore_leaves

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
    """Whether `checkpoint` is a tree of arrays with Hugging Face's path of the embedding."""
    return checkpoint.format in FORMATS and any(
        name.removeprefix("model.").startswith("embed_tokens.") for name in checkpoint.tensors
    )


def to_hf(checkpoint: Checkpoint, config: JsonObject) -> Checkpoint:
    """The tensors under Hugging Face names and in their shapes; `model.` is put before the names of a bare backbone.

    Args:
        checkpoint: The checkpoint as its reader opened it.
        config: Not used: names and ranks are enough.

    Raises:
        LayoutError: A leaf or its rank is unknown, or two tensors would get the same name.
    """
    return rename_leaves(checkpoint, _paths(checkpoint.tensors), LEAVES, NAME)


def inverse(output: Checkpoint, raw: Checkpoint, config: JsonObject) -> dict[str, TensorRef]:
    """See `jaxconv.layouts.from_hf`.

    Args:
        output: Tensors under Hugging Face names.
        raw: The source as its reader opened it.
        config: Not used.
    """
    return restore_leaves(output, raw, _paths(raw.tensors), LEAVES)


def _paths(names: Iterable[str]) -> dict[str, str]:
    """The path in the causal LM of every tensor."""
    names = list(names)
    bare = not any(name.startswith("model.") for name in names)
    return {name: f"model.{name}" if bare and not name.startswith("lm_head.") else name for name in names}
