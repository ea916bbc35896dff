"""transformers v4 Flax: PyTorch's paths, other leaf names, kernels transposed.

Source: transformers 4.57 modeling_flax_pytorch_utils.py (rename_key_and_reshape_tensor). Llama, Mistral and
Gemma hold their RMSNorm as `weight` already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxconv.checkpoint import Checkpoint
from jaxconv.layouts._leaves import Leaves, rename_leaves

NAME = "hf_flax"
FORMATS = ("flax_msgpack", "flax_safetensors")
LEAVES: Leaves = {
    "kernel": ("weight", (2,)),
    "embedding": ("weight", (2,)),
    "scale": ("weight", (1,)),
    "weight": ("weight", (1,)),
    "bias": ("bias", (1,)),
}


def matches(checkpoint: Checkpoint) -> bool:
    """transformers' own paths in its Flax containers."""
    return checkpoint.format in FORMATS and any(".embed_tokens." in name for name in checkpoint.tensors)


def to_hf(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    """PyTorch names and shapes. Raises `LayoutError` for an unknown leaf, rank, or two names that meet."""
    return rename_leaves(checkpoint, {name: name for name in checkpoint.tensors}, LEAVES, NAME)
