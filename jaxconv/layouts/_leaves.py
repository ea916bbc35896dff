"""Layouts whose paths are Hugging Face's and whose leaves are Flax's: kernel, embedding, scale."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from jaxconv.checkpoint import Array, Checkpoint, TensorRef, mapped
from jaxconv.errors import LayoutError

# Flax leaf -> (PyTorch leaf, ranks it may have)
Leaves = Mapping[str, tuple[str, tuple[int, ...]]]


def rename_leaves(checkpoint: Checkpoint, names: Mapping[str, str], leaves: Leaves, layout: str) -> Checkpoint:
    """The tensors with PyTorch leaves; kernels of rank 2 and 3 are transposed.

    Args:
        checkpoint: The checkpoint with Flax leaves.
        names: Name of each tensor -> the dotted path that it counts as.
        leaves: The leaves of the layout.
        layout: The layout's name, for messages.

    Raises:
        LayoutError: A leaf or its rank is unknown, or two tensors would get the same name.
    """
    tensors: dict[str, TensorRef] = {}
    wrong = []
    for name, ref in checkpoint.tensors.items():
        hf_name, leaf = _renamed(names[name], leaves)
        _, ranks = leaves.get(leaf, ("", ()))
        if len(ref.shape) not in ranks or hf_name in tensors:
            wrong.append(f"{name} {list(ref.shape)}")
            continue
        tensors[hf_name] = _leaf(ref, hf_name, leaf)
    if wrong:
        raise LayoutError(
            f"{checkpoint.path}: {len(wrong)} tensors are not leaves of layout {layout}: {', '.join(wrong[:5])}. "
            f"Expected leaves {', '.join(leaves)}; choose another layout with --layout."
        )
    return dataclasses.replace(checkpoint, tensors=tensors, shards=())


def restore_leaves(output: Checkpoint, raw: Checkpoint, names: Mapping[str, str], leaves: Leaves) -> dict[str, TensorRef]:
    """The inverse of `rename_leaves`: the tensors of `output` under the names and in the shapes of `raw`.

    Args:
        output: Tensors under Hugging Face names.
        raw: The checkpoint with Flax leaves.
        names: As for `rename_leaves`.
        leaves: The leaves of the layout.

    Returns:
        Tensors by their name in `raw`; without those that `output` lacks.
    """
    restored = {}
    for name, ref in raw.tensors.items():
        hf_name, leaf = _renamed(names[name], leaves)
        if hf_name in output.tensors:
            restored[name] = _restored(output.tensors[hf_name], name, ref.shape, leaf)
    return restored


def _renamed(name: str, leaves: Leaves) -> tuple[str, str]:
    """The name with its PyTorch leaf, and its Flax leaf."""
    stem, _, leaf = name.rpartition(".")
    return f"{stem}.{leaves.get(leaf, ('', ()))[0]}", leaf


def _restored(ref: TensorRef, name: str, shape: tuple[int, ...], leaf: str) -> TensorRef:
    if leaf == "kernel" and len(ref.shape) == 2:
        ref = transposed(ref, name)
    return ref.renamed(name) if ref.shape == shape else reshaped(ref, name, shape)


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
    """The same elements in another shape.

    Args:
        ref: The tensor.
        name: The name of the result.
        shape: The shape of the result, with as many elements.
    """
    return TensorRef(
        name, ref.dtype, shape, lambda: ref.read().reshape(shape), lambda ids, axis: ref.read().reshape(shape).take(ids, axis)
    )


def transposed(ref: TensorRef, name: str) -> TensorRef:
    """A matrix with its axes exchanged. A file's pages are mapped, because a copy would only be copied again.

    Args:
        ref: The matrix, [rows, columns].
        name: The name of the result, [columns, rows].
    """

    def read() -> Array:
        return mapped(ref).T

    def take(ids: Sequence[int], axis: int) -> Array:
        return ref.take(ids, 1 - axis).T

    return TensorRef(name, ref.dtype, (ref.shape[1], ref.shape[0]), read, take)
