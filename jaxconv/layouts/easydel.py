"""EasyDeL: Hugging Face's paths with Flax leaves; norms are called `kernel` too and have one dimension.

Source: EasyDeL 0.3 utils/parameters_transformation.py (easydel_to_torch).
"""

from __future__ import annotations

from jaxconv.checkpoint import Checkpoint, TensorRef
from jaxconv.errors import RefusedError
from jaxconv.json_files import JsonObject
from jaxconv.layouts._leaves import Leaves, rename_leaves, restore_leaves

NAME = "easydel"
LEAVES: Leaves = {
    "kernel": ("weight", (1, 2)),
    "embedding": ("weight", (2,)),
    "scale": ("weight", (1,)),
    "bias": ("bias", (1,)),
}


def matches(checkpoint: Checkpoint) -> bool:
    """Whether the container of `checkpoint` is EasyDeL's."""
    return checkpoint.format == "easydel"


def to_hf(checkpoint: Checkpoint, config: JsonObject) -> Checkpoint:
    """The tensors under Hugging Face names and in their shapes.

    Args:
        checkpoint: The checkpoint as its reader opened it.
        config: Not used: names and ranks are enough.

    Raises:
        LayoutError: A leaf or its rank is unknown, or two tensors would get the same name.
        RefusedError: The model has a score head already.
    """
    if any(name.startswith("score.") for name in checkpoint.tensors):
        raise RefusedError(f"{checkpoint.path} is a classifier already (it has score.kernel); expected a causal LM.")
    return rename_leaves(checkpoint, {name: name for name in checkpoint.tensors}, LEAVES, NAME)


def inverse(output: Checkpoint, raw: Checkpoint, config: JsonObject) -> dict[str, TensorRef]:
    """See `jaxconv.layouts.from_hf`.

    Args:
        output: Tensors under Hugging Face names.
        raw: The source as its reader opened it.
        config: Not used.
    """
    return restore_leaves(output, raw, {name: name for name in raw.tensors}, LEAVES)
