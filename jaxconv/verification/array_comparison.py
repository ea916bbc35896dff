"""A tensor of the output against the source's array that it comes from: axes moved back, values within one rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxconv.checkpoint import Array, numpy_dtype
from jaxconv.verification.libraries import Place
from jaxconv.verification.output import Stored
from jaxconv.verification.rounding import unit_in_last_place

BLOCK = 1 << 22  # elements compared at a time
# (float64 rows of the base, which rows) -> float64 rows of the result, and how far another sum may be from them.
Merge = Callable[[Array, slice], tuple[Array, Array]]


def compare_arrays(
    part: Array, place: Place, stored: Stored, tensor: Array, sizes: Mapping[str, int], merge: Merge | None
) -> tuple[int, int]:
    """How many elements of a tensor differ from the source's, and the first of them (-1: none).

    Where values are only moved, bits are compared, after a cast to the output's dtype if there is one. Where the library
    keeps other values the output's are taken back to the library's, and where an adapter is merged the source's values are
    merged again in float64: then an element differs if it is more than one unit in its last place off (and, of a merge, more
    than a sum in float32 may be).

    Args:
        part: What the source's array holds of the tensor.
        place: How the source keeps it.
        stored: The tensor of the output.
        tensor: Its values.
        sizes: The sizes of merged axes.
        merge: Merges an adapter into rows of the tensor.
    """
    import numpy as np

    base = place.moved_back(part, stored.shape, sizes)
    rows, width = (stored.shape[0], int(np.prod(stored.shape[1:]))) if stored.shape else (1, 1)
    base, tensor = base.reshape(rows, width), tensor.reshape(rows, width)
    step = max(1, BLOCK // max(1, width))
    different, first = 0, -1
    for start in range(0, rows, step):
        block = slice(start, start + step)
        if merge is not None:
            expected, slack = merge((_wide(base[block]) - place.plus) / place.times, block)
            far = _far_from_merged(tensor[block], expected, slack, stored.dtype)
        elif place.exact:
            far = _bits(base[block].astype(numpy_dtype(stored.dtype))) != _bits(tensor[block])
        else:
            far = _far_in_library(tensor[block], base[block], place, stored.dtype)
        if np.any(far):
            indices = np.flatnonzero(far)
            different += len(indices)
            first = first if first >= 0 else start * width + int(indices[0])
    return different, first


def _wide(array: Array) -> Array:
    import numpy as np

    return array.astype(np.float64)


def _bits(array: Array) -> Array:
    """The elements as unsigned integers of the same bits."""
    contiguous = array if array.flags.c_contiguous else array.copy(order="C")
    return contiguous.view(f"u{contiguous.itemsize}") if contiguous.itemsize in (1, 2, 4, 8) else contiguous


def _far_from_merged(tensor: Array, expected: Array, slack: Array, dtype: str) -> Array:
    import numpy as np

    return np.asarray(~(np.abs(_wide(tensor) - expected) <= unit_in_last_place(expected, dtype) + slack))


def _far_in_library(tensor: Array, base: Array, place: Place, dtype: str) -> Array:
    """One unit in the last place of the output's values, as large as it is among the library's."""
    import numpy as np

    wide = _wide(tensor)
    limit = unit_in_last_place(wide, dtype) * abs(place.times)
    return np.asarray(~(np.abs(wide * place.times + place.plus - _wide(base)) <= limit))
