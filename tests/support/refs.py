"""Tensor references over arrays in memory."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from jaxconv.checkpoint import TensorRef, safetensors_dtype


def array_ref(name: str, array: NDArray[Any]) -> TensorRef:
    """A reference whose data is the array."""
    return TensorRef(
        name, safetensors_dtype(array.dtype), array.shape, lambda: array, lambda ids, axis: array.take(list(ids), axis)
    )
