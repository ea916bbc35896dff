"""transformers v4 Flax: PyTorch's paths, other leaf names, kernels transposed.

Source: transformers 4.57 modeling_flax_pytorch_utils.py (rename_key_and_reshape_tensor). Llama, Mistral and
Gemma hold their RMSNorm as `weight` already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxconv.checkpoint import Array, Checkpoint, TensorRef
from jaxconv.errors import LayoutError

NAME = "hf_flax"
FORMATS = ("flax_msgpack", "flax_safetensors")
# leaf -> (PyTorch leaf, ranks it may have, transposed)
LEAVES: Mapping[str, tuple[str, tuple[int, ...], bool]] = {
    "kernel": ("weight", (2,), True),
    "embedding": ("weight", (2,), False),
    "scale": ("weight", (1,), False),
    "weight": ("weight", (1,), False),
    "bias": ("bias", (1,), False),
}


def matches(checkpoint: Checkpoint) -> bool:
    """Flax containers of transformers."""
    return checkpoint.format in FORMATS


def to_hf(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    """PyTorch names and shapes. Raises `LayoutError` for an unknown leaf, rank, or two names that meet."""
    tensors: dict[str, TensorRef] = {}
    wrong = []
    for name, ref in checkpoint.tensors.items():
        stem, _, leaf = name.rpartition(".")
        target, ranks, swap = LEAVES.get(leaf, ("", (), False))
        if len(ref.shape) not in ranks or f"{stem}.{target}" in tensors:
            wrong.append(f"{name} {list(ref.shape)}")
            continue
        tensors[f"{stem}.{target}"] = transposed(ref, f"{stem}.{target}") if swap else ref.renamed(f"{stem}.{target}")
    if wrong:
        raise LayoutError(
            f"{checkpoint.path}: {len(wrong)} tensors are no leaf of transformers' Flax models: {', '.join(wrong[:5])}. "
            f"Expected leaves {', '.join(LEAVES)}; choose another layout with --layout."
        )
    return Checkpoint(checkpoint.format, checkpoint.path, tensors, metadata=checkpoint.metadata, notes=checkpoint.notes)


def transposed(ref: TensorRef, name: str) -> TensorRef:
    """A matrix [in, out] as [out, in]. Rows are columns of the source, taken without transposing all of it."""

    def read() -> Array:
        return ref.read().T

    def take(ids: Sequence[int], axis: int) -> Array:
        return ref.take(ids, 1 - axis).T

    return TensorRef(name, ref.dtype, (ref.shape[1], ref.shape[0]), read, take)
