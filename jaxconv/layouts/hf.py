"""Hugging Face's own names, as PyTorch saves them: nothing to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxconv.checkpoint import Checkpoint

NAME = "hf"
FORMATS = ("safetensors", "torch_bin")


def matches(checkpoint: Checkpoint) -> bool:
    """PyTorch containers hold PyTorch names."""
    return checkpoint.format in FORMATS


def to_hf(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint as it is."""
    return checkpoint
