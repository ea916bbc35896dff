"""What the stages exchange: references to tensors, never the tensors themselves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

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
    """The NumPy dtype of a safetensors dtype name. `KeyError` for sub-byte dtypes, which have none."""
    import ml_dtypes
    import numpy as np

    name = NUMPY_NAMES[dtype]
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def safetensors_dtype(dtype: np.dtype[Any] | str) -> str:
    """The safetensors name of a NumPy (or ml_dtypes) dtype or dtype name. `KeyError` when it has none."""
    return SAFETENSORS_NAMES[str(dtype)]


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a file that already are a tensor in output form (little-endian, C order)."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor that has not been read.

    `dtype` is a safetensors dtype name ("BF16"), `shape` the shape that `read()` returns; `take(ids, axis)`
    returns slices at `ids` along an axis, in that order, reading no more than it must.
    `extent` is set when the bytes lie in a local file in output form, so that they can be copied unread.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Array] = field(repr=False, compare=False)
    take: Callable[[Sequence[int], int], Array] = field(repr=False, compare=False)
    extent: Extent | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes of the tensor's data."""
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8

    def read_rows(self, ids: Sequence[int]) -> Array:
        """The slices at `ids` of the first axis."""
        return self.take(ids, 0)

    def renamed(self, name: str) -> TensorRef:
        """The same tensor under another name."""
        return dataclasses.replace(self, name=name)


def mapped(ref: TensorRef) -> Array:
    """The tensor of `ref` as a view of its file's pages where its bytes lie in one, else read."""
    if ref.extent is None:
        return ref.read()
    import numpy as np

    return np.asarray(np.memmap(ref.extent.path, numpy_dtype(ref.dtype), "r", ref.extent.offset, ref.shape))


def sample(ref: TensorRef) -> bytes:
    """64 bytes from the middle of the tensor of `ref` if it lies in a file; none of another, which would be read whole."""
    if ref.extent is None:
        return b""
    with ref.extent.path.open("rb") as file:
        file.seek(ref.extent.offset + ref.extent.length // 2)
        return file.read(min(64, ref.extent.length - ref.extent.length // 2))


def dominant_dtype(tensors: Iterable[TensorRef]) -> str:
    """The safetensors dtype name that most bytes of the tensors have."""
    sizes: dict[str, int] = {}
    for ref in tensors:
        sizes[ref.dtype] = sizes.get(ref.dtype, 0) + math.prod(ref.shape) * DTYPE_BITS[ref.dtype]
    return max(sizes, key=lambda dtype: sizes[dtype])


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A whole safetensors file that may be copied or linked as it stands."""

    path: Path
    tensors: tuple[str, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of a source: its tensors by name, in file order.

    `format` names the container ("safetensors", "torch_bin", "flax_msgpack", "orbax", ...). `shards` is
    filled only where whole files are already in output form. `metadata` is the container's own (for
    safetensors `__metadata__`), `notes` says what was left aside ("optimizer state ignored"). With `headers_only`
    names, dtypes and shapes are known and no tensor can be read.
    """

    format: str
    path: str
    tensors: Mapping[str, TensorRef]
    shards: tuple[ShardFile, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    headers_only: bool = False

    @property
    def nbytes(self) -> int:
        """Size in bytes of all tensors."""
        return sum(ref.nbytes for ref in self.tensors.values())
