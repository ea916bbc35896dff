"""Casts the backbone to another floating dtype, and refuses values that the dtype cannot hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxconv.checkpoint import Array, TensorRef, numpy_dtype
from jaxconv.errors import RefusedError

if TYPE_CHECKING:
    from typing import Any

    import numpy as np

FLOATS = ("F64", "F32", "F16", "BF16")
REMEDIES = {
    "float16": "Pass --dtype bfloat16 or float32, or leave it out.",
    "bfloat16": "Pass --dtype float32, or leave it out.",
    "float32": "Leave --dtype out.",
}
BLOCK = 1 << 22  # elements that are checked at once


def cast(ref: TensorRef, dtype: str | None) -> TensorRef:
    """The tensor in another floating dtype, converted when it is read (round to nearest even).

    Args:
        ref: The tensor. One of integers, or of a dtype of 8 bits or fewer, stays as it is.
        dtype: A safetensors dtype name; None to leave the tensor as stored.

    Returns:
        A reference whose `read` and `take` raise `RefusedError` if a finite value becomes infinite.
    """
    if dtype is None or ref.dtype == dtype or ref.dtype not in FLOATS:
        return ref
    target = numpy_dtype(dtype)
    return TensorRef(
        ref.name,
        dtype,
        ref.shape,
        lambda: _converted(ref.name, ref.read(), target),
        lambda ids, axis: _converted(ref.name, ref.take(ids, axis), target),
    )


def _converted(name: str, array: Array, target: np.dtype[Any]) -> Array:
    import ml_dtypes
    import numpy as np

    with np.errstate(over="ignore"):
        result = array.astype(target)
    rows = np.atleast_1d(array), np.atleast_1d(result)
    height = max(1, BLOCK * rows[0].shape[0] // max(1, array.size))
    largest = 0.0
    for first in range(0, rows[0].shape[0], height):
        before, after = (block[first : first + height] for block in rows)
        overflowed = np.isinf(after) & np.isfinite(before)
        if overflowed.any():
            largest = max(largest, float(np.abs(before[overflowed].astype(np.float64)).max()))
    if largest:
        limit = float(ml_dtypes.finfo(target).max)  # type: ignore[no-untyped-call]
        raise RefusedError(
            f"tensor {name} has a value of magnitude {largest:g}, which {target} cannot store: its largest is "
            f"{limit:g}. Nothing was published. {REMEDIES[str(target)]}"
        )
    return result
