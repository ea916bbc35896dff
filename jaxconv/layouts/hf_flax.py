"""transformers v4 Flax: PyTorch's paths, other leaf names, kernels transposed.

Source: transformers 4.57 modeling_flax_pytorch_utils.py (rename_key_and_reshape_tensor). Llama, Mistral and
Gemma hold their RMSNorm as `weight` already.
"""

from __future__ import annotations

from jaxconv.checkpoint import Checkpoint, TensorRef
from jaxconv.json_files import JsonObject
from jaxconv.layouts._leaves import Leaves, rename_leaves, restore_leaves

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
    """Whether the container of `checkpoint` is one of transformers' Flax models, with its paths."""
    return checkpoint.format in FORMATS and any(".embed_tokens." in name for name in checkpoint.tensors)


def to_hf(checkpoint: Checkpoint, config: JsonObject) -> Checkpoint:
    """The tensors under PyTorch names and in their shapes.

    Args:
        checkpoint: The checkpoint as its reader opened it.
        config: Not used: names and ranks are enough.

    Raises:
        LayoutError: A leaf or its rank is unknown, or two tensors would get the same name.
    """
    return rename_leaves(checkpoint, {name: name for name in checkpoint.tensors}, LEAVES, NAME)


def inverse(output: Checkpoint, raw: Checkpoint, config: JsonObject) -> dict[str, TensorRef]:
    """See `jaxconv.layouts.from_hf`.

    Args:
        output: Tensors under Hugging Face names.
        raw: The source as its reader opened it.
        config: Not used.
    """
    return restore_leaves(output, raw, {name: name for name in raw.tensors}, LEAVES)
