"""The arithmetic of all schemes: packed fields, 8-bit codes and scales to float32, with NumPy alone."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from jaxconv.checkpoint import Array
from jaxconv.errors import SourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Four bits: sign, two of exponent, one of mantissa.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
# Column of a word's eight that its nibble k holds, for AWQ's "gemm" order.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def widen(array: Array) -> NDArray[np.float32]:
    """The values of `array` as float32, exactly.

    8-bit floats go through a table of their 256 codes, ten times faster than a cast.
    """
    import numpy as np

    if array.dtype.itemsize == 1 and array.dtype.kind not in "iub":
        return _values_of_codes(array.dtype)[np.ascontiguousarray(array).view(np.uint8)]
    return np.asarray(array.astype(np.float32))


@cache
def _values_of_codes(dtype: np.dtype[np.generic]) -> NDArray[np.float32]:
    import numpy as np

    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)


def fields(words: Array, bits: int, count: int) -> NDArray[np.uint8]:
    """Unsigned fields of 4 or 8 bits, lowest first, along the last axis.

    Args:
        words: Integers of any width, little-endian, [..., n].
        bits: 4 or 8.
        count: How many fields of each row count; what fills the last word is left out.

    Returns:
        uint8 [..., count].
    """
    import numpy as np

    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return octets[..., :count]
    unpacked = np.empty((*octets.shape[:-1], octets.shape[-1] * 2), np.uint8)
    unpacked[..., 0::2] = octets & 15
    unpacked[..., 1::2] = octets >> 4
    return unpacked[..., :count]


def fields_down(words: Array, bits: int, count: int) -> NDArray[np.uint8]:
    """Unsigned fields of 4 or 8 bits, lowest first, along the first axis.

    Args:
        words: int32 [n, ...].
        bits: 4 or 8.
        count: How many fields of each column count; what fills the last word is left out.

    Returns:
        uint8 [count, ...].
    """
    import numpy as np

    each = 32 // bits
    unpacked = np.empty((words.shape[0] * each, *words.shape[1:]), np.uint8)
    for field in range(each):
        unpacked[field::each] = (words >> (field * bits)) & ((1 << bits) - 1)
    return unpacked[:count]


def awq_fields(words: Array, count: int) -> NDArray[np.uint8]:
    """Unsigned 4-bit fields along the last axis in the order of AWQ's "gemm" kernels.

    Args:
        words: int32 [..., n].
        count: How many fields of each row count.

    Returns:
        uint8 [..., count].
    """
    import numpy as np

    plain = fields(words, 4, words.shape[-1] * 8)
    inverse = np.argsort(AWQ_ORDER)
    return plain.reshape(*plain.shape[:-1], -1, 8)[..., inverse].reshape(plain.shape)[..., :count]


def e2m1(packed: Array, count: int) -> NDArray[np.float32]:
    """Values of 4-bit floats, two a byte, low nibble first.

    Args:
        packed: uint8 [..., n].
        count: How many values of each row count.

    Returns:
        float32 [..., count].
    """
    import numpy as np

    return np.array(E2M1, np.float32)[fields(packed, 4, count)]


def scaled(values: NDArray[np.float32], scales: NDArray[np.float32], block: tuple[int, int]) -> NDArray[np.float32]:
    """Each value times the scale of its block, in place.

    Args:
        values: float32 [rows, columns].
        scales: float32 [ceil(rows / block[0]), ceil(columns / block[1])], or of one element for all values.
        block: Rows and columns that share a scale.

    Returns:
        `values`.
    """
    values *= spread(scales, block, values.shape)
    return values


def spread(scales: Array, block: tuple[int, int], shape: tuple[int, ...]) -> Array:
    """What belongs to blocks of a matrix, repeated so that it broadcasts against the matrix.

    Args:
        scales: One entry per block, or a single one.
        block: Rows and columns of a block.
        shape: The matrix's shape, [rows, columns].
    """
    import numpy as np

    if scales.size == 1:
        return scales.reshape(1, 1)
    wide = scales.reshape(scales.shape[0], -1)
    if block[1] > 1 and wide.shape[1] > 1:
        wide = np.repeat(wide, block[1], axis=1)[:, : shape[1]]
    if block[0] > 1:
        wide = np.repeat(wide, block[0], axis=0)[: shape[0]]
    return wide


def gathered(index: Array, groups: int, module: str) -> NDArray[np.int64]:
    """A group index per input feature (GPTQ's g_idx), once each is a group that exists.

    Args:
        index: The stored indices, whole numbers [input features].
        groups: How many groups there are.
        module: The module's name, for messages.

    Raises:
        SourceError: An index points outside of the groups.
    """
    import numpy as np

    index = np.asarray(index).astype(np.int64)
    if index.size and (index.min() < 0 or index.max() >= groups):
        raise SourceError(
            f"{module}.g_idx points to group {int(index.max() if index.max() >= groups else index.min())}; expected 0 to "
            f"{groups - 1}. The file is damaged: get the checkpoint again."
        )
    return index
