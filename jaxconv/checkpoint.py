"""What the stages exchange: references to tensors, never the tensors themselves."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from jaxconv.errors import SourceError
from jaxconv.file_errors import reading, unreadable
from jaxconv.storage import File, FileIdentity, read_blocks, read_into

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"

# Bits per element of every dtype of the safetensors format (safetensors 0.8, `Dtype`).
DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip

# safetensors dtype -> NumPy (ml_dtypes) name. Sub-byte dtypes have no NumPy form and are only copied.
NUMPY_NAMES: Mapping[str, str] = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16",
    "F32": "float32", "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip

SAFETENSORS_NAMES: Mapping[str, str] = {name: key for key, name in NUMPY_NAMES.items()}


@cache
def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype of `dtype`, a safetensors dtype name. `KeyError` for sub-byte dtypes, which NumPy lacks."""
    import ml_dtypes
    import numpy as np

    name = NUMPY_NAMES[dtype]
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def safetensors_dtype(dtype: np.dtype[Any] | str) -> str:
    """The safetensors name of `dtype`, a NumPy (or ml_dtypes) dtype or its name. `KeyError` if safetensors lacks it."""
    return SAFETENSORS_NAMES[str(dtype)]


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a file that already are a tensor in output form (little-endian, C order)."""

    path: File
    offset: int
    length: int


BOX = 1 << 26  # bytes of an array that are read at once, where it is read part by part
Box: TypeAlias = tuple[tuple[int, ...], Array]  # a part of an array: the index where it begins, and its values
Place: TypeAlias = Callable[[tuple[int, ...], Array], tuple[tuple[slice, ...], Array] | None]


@dataclass(frozen=True, slots=True)
class Boxes:
    """How a tensor is put together from the parts of a large array, which are read in one pass for all tensors in it.

    Attributes:
        read: Gives the parts of the array, each once. Tensors of one array have the same function.
        shape: The shape in which `place` sees the tensor, with as many elements in the same order.
        place: From a part of the array to its region of the tensor, and the values there; None if there are none.
        cut: The axes of the array that parts may cut.
    """

    read: Callable[[], Iterator[Box]]
    shape: tuple[int, ...]
    place: Place
    cut: frozenset[int]


def whole_place(start: tuple[int, ...], values: Array) -> tuple[tuple[slice, ...], Array]:
    """The place of a part in its own array.

    Args:
        start: The index where the part begins.
        values: Its values.
    """
    return tuple(slice(first, first + size) for first, size in zip(start, values.shape, strict=True)), values


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor that has not been read.

    `dtype` is a safetensors dtype name ("BF16"), `shape` the shape that `read()` returns; `take(ids, axis)`
    returns slices at `ids` along an axis, in that order, reading no more than it must.
    `extent` is set when the bytes lie in a file in output form, so that they can be copied unread. `computed` says that
    a whole `read()` computes every element anew, so that of stacked layers one should be taken. `packed` is set where the
    elements are products of codes and scales, which take less memory. `boxes` is set where the tensor is part of an array
    that is large enough to be read part by part.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Array] = field(repr=False, compare=False)
    take: Callable[[Sequence[int], int], Array] = field(repr=False, compare=False)
    extent: Extent | None = None
    computed: bool = False
    packed: Packed | None = field(default=None, repr=False, compare=False)
    boxes: Boxes | None = field(default=None, repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the tensor's data."""
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8

    def read_rows(self, ids: Sequence[int]) -> Array:
        """The slices at `ids` of the first axis, in that order."""
        return self.take(ids, 0)

    def renamed(self, name: str) -> TensorRef:
        """The same tensor under another `name`."""
        return dataclasses.replace(self, name=name)


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix as codes of 8 bits and scales: (code - zero point) * scale, each a float32 operation.

    Attributes:
        codes: The codes, [rows, columns].
        scales: Gives the scales, float32 [rows, groups]; a group is as many columns as another.
        zeros: Gives the zero points, likewise; None where they are zero.
    """

    codes: TensorRef
    scales: Callable[[], Array]
    zeros: Callable[[], Array] | None = None


def mapped(ref: TensorRef) -> Array:
    """The tensor of `ref` as a view of its file's pages where its bytes lie in one, else read."""
    return ref.read() if ref.extent is None else map_extent(ref.extent, ref.dtype, ref.shape)


def map_extent(extent: Extent, dtype: str, shape: tuple[int, ...]) -> Array:
    """Bytes of a file as an array whose pages are read on use; those of an object in a store are read at once.

    If the file is cut afterwards, while its pages are read, the process ends with SIGBUS, which Python cannot catch.

    Args:
        extent: Where the bytes lie.
        dtype: The safetensors dtype name of the array.
        shape: The shape of the array.

    Raises:
        SourceError: The file cannot be opened, or is shorter than the extent.
    """
    import numpy as np

    if not isinstance(extent.path, Path):
        return read_array(extent.path, extent.offset, dtype, shape)
    try:
        with extent.path.open("rb") as file:
            size, end = os.fstat(file.fileno()).st_size, extent.offset + extent.length
            if size < end:
                raise SourceError(f"{extent.path} has {size} bytes; expected at least {end}. It was cut; download it again.")
            if extent.length == 0:
                return np.empty(shape, numpy_dtype(dtype))
            return np.asarray(np.memmap(file, numpy_dtype(dtype), "r", extent.offset, shape))
    except OSError as error:
        raise unreadable(extent.path, error) from error


def read_array(file: File, offset: int, dtype: str, shape: tuple[int, ...]) -> Array:
    """Bytes of a file as an array in memory.

    Args:
        file: The file.
        offset: The first byte.
        dtype: The safetensors dtype name of the array.
        shape: The shape of the array.

    Raises:
        SourceError: The file cannot be read, or ends too early.
    """
    import numpy as np

    array = np.empty(shape, numpy_dtype(dtype))
    view = memoryview(array.reshape(-1).view(np.uint8).data)
    with reading(file):
        count = read_into(file, view, offset)
    if count < len(view):
        raise SourceError(f"{file} ended at byte {offset + count}; expected {offset + len(view)} bytes. Download it again.")
    return array


def sample(ref: TensorRef) -> bytes:
    """64 bytes from the middle of the tensor of `ref` if it lies in a file; else none, because all of it would be read."""
    if ref.extent is None:
        return b""
    middle = ref.extent.length // 2
    with reading(ref.extent.path):
        return b"".join(read_blocks(ref.extent.path, ref.extent.offset + middle, min(64, ref.extent.length - middle)))


def dominant_dtype(tensors: Iterable[TensorRef]) -> str:
    """The safetensors dtype name that most bytes of `tensors` have."""
    sizes: dict[str, int] = {}
    for ref in tensors:
        sizes[ref.dtype] = sizes.get(ref.dtype, 0) + math.prod(ref.shape) * DTYPE_BITS[ref.dtype]
    return max(sizes, key=lambda dtype: sizes[dtype])


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A whole safetensors file: its tensors in file order, its size in bytes, and its `__metadata__`."""

    path: File
    tensors: tuple[str, ...]
    nbytes: int
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of a source: its tensors by name, in file order.

    `format` names the container ("safetensors", "torch_bin", "flax_msgpack", "orbax", ...). `shards` is
    filled only where whole files are already in output form. `metadata` is the container's own (for
    safetensors `__metadata__`), `notes` says what was left aside ("optimizer state ignored"). With `headers_only`
    names, dtypes and shapes are known and no tensor can be read. `files` has the files that the tensors lie in, as they
    were when their headers were read, so that a file that changes later is noticed.
    """

    format: str
    path: str
    tensors: Mapping[str, TensorRef]
    shards: tuple[ShardFile, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    headers_only: bool = False
    files: Mapping[File, FileIdentity] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size in bytes of all tensors."""
        return sum(ref.nbytes for ref in self.tensors.values())
