"""Layouts whose paths are Hugging Face's and whose leaves are Flax's: kernel, embedding, scale."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from jaxconv.checkpoint import Array, Checkpoint, TensorRef, mapped
from jaxconv.errors import LayoutError

# leaf -> (PyTorch leaf, ranks it may have)
Leaves = Mapping[str, tuple[str, tuple[int, ...]]]


def rename_leaves(checkpoint: Checkpoint, names: Mapping[str, str], leaves: Leaves, layout: str) -> Checkpoint:
    """PyTorch leaves; `names` gives the dotted path that each tensor counts as. Kernels of rank 2 and 3 are transposed.

    Raises `LayoutError` for an unknown leaf or rank, or two names that meet.
    """
    tensors: dict[str, TensorRef] = {}
    wrong = []
    for name, ref in checkpoint.tensors.items():
        stem, _, leaf = names[name].rpartition(".")
        target, ranks = leaves.get(leaf, ("", ()))
        hf_name = f"{stem}.{target}"
        if len(ref.shape) not in ranks or hf_name in tensors:
            wrong.append(f"{name} {list(ref.shape)}")
            continue
        tensors[hf_name] = _leaf(ref, hf_name, leaf)
    if wrong:
        raise LayoutError(
            f"{checkpoint.path}: {len(wrong)} tensors are no leaf of layout {layout}: {', '.join(wrong[:5])}. "
            f"Expected leaves {', '.join(leaves)}; choose another layout with --layout."
        )
    return dataclasses.replace(checkpoint, tensors=tensors, shards=())


def _leaf(ref: TensorRef, name: str, leaf: str) -> TensorRef:
    if leaf == "bias" and len(ref.shape) == 2:
        return reshaped(ref, name, (math.prod(ref.shape),))
    if leaf != "kernel" or len(ref.shape) == 1:
        return ref.renamed(name)
    if len(ref.shape) == 3:  # heads as an axis: [in, heads, head_dim], and [heads, head_dim, out] of the output projection
        first, middle, last = ref.shape
        ref = reshaped(ref, name, (first * middle, last) if ".o_proj." in name else (first, middle * last))
    return transposed(ref, name)


def reshaped(ref: TensorRef, name: str, shape: tuple[int, ...]) -> TensorRef:
    """The same elements in another shape."""
    return TensorRef(
        name, ref.dtype, shape, lambda: ref.read().reshape(shape), lambda ids, axis: ref.read().reshape(shape).take(ids, axis)
    )


def transposed(ref: TensorRef, name: str) -> TensorRef:
    """A matrix [in, out] as [out, in]. Of a file its pages are mapped: a copy would only be made to be copied again."""

    def read() -> Array:
        return mapped(ref).T

    def take(ids: Sequence[int], axis: int) -> Array:
        return ref.take(ids, 1 - axis).T

    return TensorRef(name, ref.dtype, (ref.shape[1], ref.shape[0]), read, take)
