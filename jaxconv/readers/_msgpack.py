"""Finds the arrays of a flax msgpack file without reading them: one pass over the mapped file, payloads skipped.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md, with flax.serialization's extension types
(0.12: 1 an array, 2 a complex number, 3 a NumPy scalar) and its dicts of chunks for arrays above 1 GiB. The file is
untrusted: every length is checked against what is left of it, and depth and counts are bounded.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import DTYPE_BITS, SAFETENSORS_NAMES, Extent
from jaxconv.errors import SourceError
from jaxconv.file_errors import reading

MAX_DEPTH = 64
MAX_ENTRIES = 1 << 20
MAX_KEY = 4096  # bytes
MAX_RANK = 32
MAX_SIZE = 1 << 62
CHUNKED = "__msgpack_chunked_array__"
ARRAY, COMPLEX, SCALAR = 1, 2, 3

# First byte -> bytes of the length that follows it.
_STR = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BIN = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_LIST = {0xDC: 2, 0xDD: 4}
_MAP = {0xDE: 2, 0xDF: 4}
_EXT = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}  # first byte -> bytes of payload
_NUMBERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
            0xCA: ">f", 0xCB: ">d"}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class Damaged(ValueError):
    """Says what is wrong with the bytes, and where."""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in the file: dtype (safetensors name), shape, and where its bytes lie, several parts when chunked."""

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Extent, ...]


Path_ = tuple[str, ...]


def scan(path: Path) -> dict[Path_, StoredArray | None]:
    """Every leaf of the tree in the file at `path`, by its path of keys; None for a leaf that is not an array (a step, say).

    Raises:
        SourceError: The file is not a whole msgpack map of such leaves.
    """
    with reading(path):
        size = path.stat().st_size
    if size == 0:
        raise SourceError(f"{path} is empty; expected flax msgpack. Download it again.")
    with reading(path), path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            scanner = _Scanner(path, data)
            leaves = dict(scanner.tree())
            if scanner.position != size:
                raise Damaged(f"{size - scanner.position} bytes follow the tree")
            return leaves
        except (Damaged, UnicodeDecodeError, struct.error) as error:
            raise SourceError(
                f"{path} is not a complete flax msgpack file: {error}. Expected nested maps of arrays; download it again."
            ) from None


def looks_like_msgpack(path: Path) -> bool:
    """Whether the file at `path` begins with a map whose first key is a string."""
    with reading(path), path.open("rb") as file:
        head = file.read(6)
    if not head:
        return False
    skip = _MAP.get(head[0], 0) if head[0] in _MAP else (0 if 0x80 < head[0] <= 0x8F else None)
    if skip is None or len(head) < skip + 2:
        return False
    first = head[1 + skip]
    return 0xA0 <= first <= 0xBF or first in _STR


class _Scanner:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.position, self.entries = path, data, 0, 0

    def tree(self, at: Path_ = ()) -> Iterator[tuple[Path_, StoredArray | None]]:
        """The leaves below a map that begins here."""
        count = self._map_length()
        if count is None:
            raise Damaged(f"byte {self.position} does not begin a map")
        if len(at) > MAX_DEPTH:
            raise Damaged(f"maps lie more than {MAX_DEPTH} deep")
        seen = set()
        for _ in range(count):
            key = self._key()
            if key in seen:
                raise Damaged(f"{'.'.join((*at, key))} occurs twice")
            seen.add(key)
            if key == CHUNKED:
                yield at, self._chunked(at, count)
                return
            where = (*at, key)
            if self._peek_map():
                yield from self.tree(where)
            else:
                yield where, self._leaf()

    def _chunked(self, at: Path_, count: int) -> StoredArray:
        if self._scalar() is not True or count != 3:
            raise Damaged(f"{'.'.join(at)} is not a chunked array")
        if self._key() != "shape":
            raise Damaged(f"the chunked array {'.'.join(at)} lacks its shape")
        shape = self._shape([self._scalar() for _ in self._numbered()])
        if self._key() != "chunks":
            raise Damaged(f"the chunked array {'.'.join(at)} lacks its chunks")
        chunks = [self._leaf() for _ in self._numbered()]
        parts = [chunk for chunk in chunks if chunk is not None]
        lengths = sum(math.prod(part.shape) for part in parts)
        if not parts or len(parts) != len(chunks) or lengths != math.prod(shape) or len({p.dtype for p in parts}) != 1:
            raise Damaged(f"the chunks of {'.'.join(at)} do not make up an array of {list(shape)}")
        return StoredArray(parts[0].dtype, shape, tuple(extent for part in parts for extent in part.parts))

    def _numbered(self) -> Iterator[int]:
        """The places of a map that stands for a list: keys "0", "1", ... in order; values are left to the caller."""
        count = self._map_length()
        if count is None:
            raise Damaged(f"byte {self.position} does not begin a map")
        for number in range(count):
            if self._key() != str(number):
                raise Damaged(f"byte {self.position}: a list has keys out of order")
            yield number

    def _leaf(self) -> StoredArray | None:
        head = self._byte()
        if head in _FIXED_EXT:
            length = _FIXED_EXT[head]
        elif head in _EXT:
            length = self._length(_EXT[head])
        else:
            self.position -= 1
            self._scalar()
            return None
        kind = self._byte()
        end = self._end(length)
        if kind in (COMPLEX, SCALAR):
            self.position = end
            return None
        if kind != ARRAY:
            raise Damaged(f"byte {self.position} holds the unknown extension type {kind}")
        array = self._array(end)
        if self.position != end:
            raise Damaged(f"byte {self.position}: an array ends before its extension does")
        return array

    def _array(self, end: int) -> StoredArray:
        if self._byte() != 0x93:
            raise Damaged(f"byte {self.position}: an array is not shape, dtype and bytes")
        shape = self._shape([self._scalar() for _ in range(self._list_length())])
        name = self._scalar()
        dtype = SAFETENSORS_NAMES.get(str(name))
        if dtype is None:
            raise Damaged(f"byte {self.position}: an array has the unknown dtype {str(name)[:40]!r}")
        head = self._byte()
        if head not in _BIN:
            raise Damaged(f"byte {self.position}: an array has no bytes")
        length = self._length(_BIN[head])
        start = self.position
        self.position = self._end(length)
        if self.position > end or math.prod(shape) * DTYPE_BITS[dtype] // 8 != length:
            raise Damaged(f"byte {start}: {dtype} {list(shape)} has {length} bytes")
        return StoredArray(dtype, shape, (Extent(self.path, start, length),))

    def _shape(self, numbers: list[Any]) -> tuple[int, ...]:
        if not all(type(n) is int and 0 <= n < MAX_SIZE for n in numbers) or math.prod(numbers) >= MAX_SIZE:
            raise Damaged(f"byte {self.position}: {str(numbers)[:80]} is not a shape")
        return tuple(numbers)

    def _list_length(self) -> int:
        head = self._byte()
        length = head & 15 if 0x90 <= head <= 0x9F else self._length(_LIST[head]) if head in _LIST else MAX_RANK + 1
        if length > MAX_RANK:
            raise Damaged(f"byte {self.position}: a shape of more than {MAX_RANK} numbers")
        return length

    def _peek_map(self) -> bool:
        head = self._byte()
        self.position -= 1
        return 0x80 <= head <= 0x8F or head in _MAP

    def _map_length(self) -> int | None:
        head = self._byte()
        if not (0x80 <= head <= 0x8F or head in _MAP):
            self.position -= 1
            return None
        count = head & 15 if head <= 0x8F else self._length(_MAP[head])
        self.entries += count
        if self.entries > MAX_ENTRIES:
            raise Damaged(f"it claims more than {MAX_ENTRIES} entries")
        return count

    def _key(self) -> str:
        key = self._scalar()
        if not isinstance(key, str):
            raise Damaged(f"byte {self.position}: a key is not a string")
        return key

    def _scalar(self) -> Any:
        """A number, constant or short string; anything else is damage."""
        head = self._byte()
        if head <= 0x7F:
            return head
        if head >= 0xE0:
            return head - 256
        if head in _CONSTANTS:
            return _CONSTANTS[head]
        if head in _NUMBERS:
            form = _NUMBERS[head]
            return struct.unpack(form, self._take(struct.calcsize(form)))[0]
        if 0xA0 <= head <= 0xBF or head in _STR:
            length = head & 31 if head <= 0xBF else self._length(_STR[head])
            if length > MAX_KEY:
                raise Damaged(f"byte {self.position}: a string of {length} bytes, more than {MAX_KEY}")
            return self._take(length).decode()
        raise Damaged(f"byte {self.position - 1} is 0x{head:02x}, which no flax file has there")

    def _length(self, width: int) -> int:
        return int.from_bytes(self._take(width), "big")

    def _end(self, length: int) -> int:
        end = self.position + length
        if end > len(self.data):
            raise Damaged(f"byte {self.position} claims {length} bytes, {len(self.data) - self.position} are left")
        return end

    def _take(self, length: int) -> bytes:
        end = self._end(length)
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def _byte(self) -> int:
        return self._take(1)[0]
