"""EasyDeL: Hugging Face's paths with Flax leaves; norms are called `kernel` too and have one dimension.

Source: EasyDeL 0.3 utils/parameters_transformation.py (easydel_to_torch).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import RefusedError
from jaxconv.layouts._leaves import Leaves, rename_leaves

NAME = "easydel"
LEAVES: Leaves = {
    "kernel": ("weight", (1, 2)),
    "embedding": ("weight", (2,)),
    "scale": ("weight", (1,)),
    "bias": ("bias", (1,)),
}


def matches(checkpoint: Checkpoint) -> bool:
    """EasyDeL's own container."""
    return checkpoint.format == "easydel"


def to_hf(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    """Hugging Face names and shapes. Raises `RefusedError` for a model that has a score head already."""
    if any(name.startswith("score.") for name in checkpoint.tensors):
        raise RefusedError(f"{checkpoint.path} is a classifier already (it has score.kernel); expected a causal LM.")
    return rename_leaves(checkpoint, {name: name for name in checkpoint.tensors}, LEAVES, NAME)
