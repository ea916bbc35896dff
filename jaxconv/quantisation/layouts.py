"""Stored forms that several schemes share: a tensor of codes and a tensor of scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxconv.checkpoint import Array, numpy_dtype
from jaxconv.errors import SourceError
from jaxconv.families.parameter import Parameter
from jaxconv.quantisation.codecs import e2m1, scaled, spread, widen
from jaxconv.quantisation.storage import Decoder, Part, Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLOATS = frozenset({"BF16", "F16", "F32"})
F32 = frozenset({"F32"})
FP8 = frozenset({"F8_E4M3"})
INT8 = frozenset({"I8"})
SCALAR: tuple[Shape, ...] = ((), (1,))


def matrix_of(name: str, parameter: Parameter, kinds: tuple[str, ...] = ("linear",)) -> tuple[str, tuple[int, int]] | None:
    """The module and the shape of a weight that a scheme may store in its own way; None for any other parameter.

    Args:
        name: The parameter's name in a plain checkpoint.
        parameter: Its plain shape and kind.
        kinds: The kinds of modules that the scheme quantises.

    Raises:
        SourceError: The weight has another number of dimensions than two.
    """
    module, dot, leaf = name.rpartition(".")
    if parameter.kind not in kinds or not dot or leaf != "weight":
        return None
    if len(parameter.shape) != 2:
        raise SourceError(f"{name} has {len(parameter.shape)} dimensions; quantised weights are known as matrices.")
    return module, (parameter.shape[0], parameter.shape[1])


def ceil_div(count: int, size: int) -> int:
    """How many blocks of `size` cover `count`."""
    return -(-count // size)


def scalar(suffix: str, dtypes: frozenset[str] = FLOATS, required: bool = True) -> Part:
    """One number for the whole linear.

    Args:
        suffix: The tensor's name after the module's.
        dtypes: The dtypes allowed.
        required: Whether the linear cannot be read without it.
    """
    return Part(suffix, dtypes, SCALAR, required=required)


def grid(
    suffix: str, shape: tuple[int, int], block: tuple[int, int], dtypes: frozenset[str] = FLOATS, required: bool = True
) -> Part:
    """One number per block of the weight.

    Args:
        suffix: The tensor's name after the module's.
        shape: Output and input features.
        block: Rows and columns of a block; 0 stands for all.
        dtypes: The dtypes allowed.
        required: Whether the linear cannot be read without it.
    """
    rows, columns = (size or shape[axis] for axis, size in enumerate(block))
    stored = ceil_div(shape[0], rows), ceil_div(shape[1], columns)
    shapes: tuple[Shape, ...] = (stored,)
    if block == (0, 0):
        shapes = SCALAR + shapes
    elif not block[1]:
        shapes += ((stored[0],),)
    return Part(suffix, dtypes, shapes, axis=0 if block[0] else None, features=block[0] or 1, required=required)


@dataclass(frozen=True, slots=True)
class CodesTimesScales:
    """Decodes 8-bit codes: (code - zero point) · scale of the block, each a float32 operation.

    Scales stored as bytes are powers of two: the exponents of `F8_E8M0`, which some files store without that dtype's name.

    Attributes:
        codes: Suffix of the codes.
        scales: Suffix of the scales.
        block: Rows and columns that share a scale; 0 stands for all.
        columns: Input features.
        zeros: Suffix of zero points stored as the scales are; they may be absent.
    """

    codes: str
    scales: str
    block: tuple[int, int]
    columns: int
    zeros: str | None = None

    def __call__(self, arrays: Mapping[str, Array], rows: int) -> NDArray[np.float32]:
        """As `Decoder`: float32 [rows, columns] from the stored `arrays` of so many `rows`, by suffix."""
        block = self.block[0] or rows, self.block[1] or self.columns
        values = widen(arrays[self.codes])
        if self.zeros is not None and self.zeros in arrays:
            values -= spread(widen(arrays[self.zeros]), block, values.shape)
        return scaled(values, _scales(arrays[self.scales]), block)

    def whole_groups(self, shape: Shape) -> bool:
        """Whether scales of a `shape` count for groups of columns of one size, so that their number tells it."""
        groups = shape[1] if len(shape) == 2 else 1
        return groups == 1 or groups * self.block[1] == self.columns

    def by_rows(self, array: Array, rows: int) -> NDArray[np.float32]:
        """Scales or zero points as stored in `array` for so many `rows`, as float32 [rows, groups]."""
        import numpy as np

        wide = _scales(array)
        wide = wide.reshape(1, 1) if wide.size == 1 else wide.reshape(wide.shape[0], -1)
        block = self.block[0] if len(wide) > 1 else 0
        return np.ascontiguousarray(wide[np.arange(rows) // (block or rows)])


def nvfp4(codes: str, scales: str, scale_of_scales: str, columns: int, *, divide: bool) -> Decoder:
    """Decodes 4-bit floats in groups of 16: code · (group scale · or / scale of the tensor), in the libraries' order.

    Args:
        codes: Suffix of the packed codes.
        scales: Suffix of the groups' scales.
        scale_of_scales: Suffix of the tensor's scale.
        columns: Input features.
        divide: Whether the group scale is divided by the tensor's (compressed-tensors) or multiplied (modelopt).
    """

    def decode(arrays: Mapping[str, Array], rows: int) -> NDArray[np.float32]:
        tensor = widen(arrays[scale_of_scales]).reshape(1, 1)
        groups = widen(arrays[scales])
        groups = groups / tensor if divide else groups * tensor
        return scaled(e2m1(arrays[codes], columns), groups, (1, 16))

    return decode


def _scales(array: Array) -> NDArray[np.float32]:
    import numpy as np

    if array.dtype != np.uint8:
        return widen(array)
    return widen(np.ascontiguousarray(array).view(numpy_dtype("F8_E8M0")))
