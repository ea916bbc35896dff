"""Arrays that are one zstd chunk, as Orbax saves what lies on one device: decompressed some rows at a time.

TensorStore decompresses a chunk at once and then copies it, which takes three times the array. Where the compressed bytes lie
in a local file, they are read from there.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from jaxconv.checkpoint import BOX, Array, Boxes, Extent, numpy_dtype, whole_place
from jaxconv.errors import SourceError
from jaxconv.file_errors import reading
from jaxconv.json_files import JsonObject


def streamed(array: Any, dtype: str, places: Mapping[str, Extent], where: str) -> Boxes | None:
    """The parts of an array that is one zstd chunk; None if it is stored otherwise, or `zstandard` is not installed.

    Args:
        array: The opened TensorStore.
        dtype: Its safetensors dtype name.
        places: Where the values of its database lie, by key.
        where: What is read, for messages.
    """
    metadata = array.spec().to_json()["metadata"]
    plain = metadata.get("order") == "C" and not metadata.get("filters") and metadata.get("chunks") == metadata["shape"]
    big_endian = str(metadata.get("dtype")).startswith(">")
    compressor = metadata.get("compressor") or {}
    if not plain or big_endian or compressor.get("id") != "zstd" or importlib.util.find_spec("zstandard") is None:
        return None
    chunk = metadata["dimension_separator"].join("0" for _ in array.shape)
    store = array.kvstore.spec().to_json()
    if store["driver"] == "file":
        path = Path(store["path"]) / chunk
        extent = Extent(path, 0, path.stat().st_size) if path.is_file() else None
    else:
        extent = places.get(f"{store.get('path')}{chunk}")
    if extent is None or not _lies_in_file(extent):
        return None  # TensorStore says what is wrong
    shape = tuple(array.shape)
    return Boxes(lambda: _decompress(extent, dtype, shape, where), shape, whole_place, frozenset({0}))


def _lies_in_file(extent: Extent) -> bool:
    path = extent.path
    return isinstance(path, Path) and path.is_file() and 0 <= extent.offset <= path.stat().st_size - extent.length


def _decompress(extent: Extent, dtype: str, shape: tuple[int, ...], where: str) -> Iterator[tuple[tuple[int, ...], Array]]:
    import numpy as np
    import zstandard

    assert isinstance(extent.path, Path)
    row = math.prod(shape[1:]) * numpy_dtype(dtype).itemsize
    height = max(1, BOX // row)
    with reading(extent.path), extent.path.open("rb") as file:
        file.seek(extent.offset)
        stream = zstandard.ZstdDecompressor().stream_reader(cast(Any, _Window(file, extent.length)), read_size=1 << 20)
        for start in range(0, shape[0], height):
            block = np.empty((min(height, shape[0] - start), *shape[1:]), numpy_dtype(dtype))
            view, done = memoryview(block.reshape(-1).view(np.uint8).data), 0
            try:
                while done < len(view) and (count := stream.readinto(view[done:])):
                    done += count
            except zstandard.ZstdError as error:
                raise SourceError(f"{where} cannot be read: {error}. Copy it again.") from None
            if done < len(view):
                raise SourceError(f"{where} cannot be read: its chunk ends too early. Copy it again.")
            yield (start, *(0 for _ in shape[1:])), block
        _check_end(stream, where)


def _check_end(stream: Any, where: str) -> None:
    """Raises `SourceError` for a chunk that holds more than its array, or whose checksum, which stands last, is wrong."""
    import zstandard

    try:
        rest = stream.read(1)
    except zstandard.ZstdError as error:
        raise SourceError(f"{where} cannot be read: {error}. Copy it again.") from None
    if rest:
        raise SourceError(f"{where} cannot be read: its chunk is longer than the array. Copy it again.")


class _Window:
    """A file that ends after so many bytes."""

    def __init__(self, file: Any, length: int) -> None:
        self._file, self._left = file, length

    def read(self, size: int) -> bytes:
        content: bytes = self._file.read(min(size, self._left))
        self._left -= len(content)
        return content


def database_places(base: str | JsonObject, root: Path) -> dict[str, Extent]:
    """Where the values of an OCDBT database lie, by key; empty for one whose tree has more than one node.

    Args:
        base: The key-value store that the database lies in.
        root: Its directory.
    """
    import tensorstore

    try:
        store = tensorstore.KvStore.open(base).result()
        version = tensorstore.ocdbt.dump(store).result()["versions"][-1]
        if version["root_height"] != 0:
            return {}
        entries = tensorstore.ocdbt.dump(store, version["root"]["location"]).result()["entries"]
    except (ValueError, OSError, KeyError, IndexError):
        return {}  # the database is damaged, which opening its arrays will say
    places = {}
    for entry in entries:
        kind, *location = str(entry.get("indirect_value", "")).split(":")
        if kind == "value" and len(location) == 4:
            base_path, path, offset, length = location
            file = Path(f"{root}/{unquote(base_path)}{unquote(path)}")
            if not file.resolve().is_relative_to(root.resolve()):
                continue  # a damaged or hostile database; TensorStore decides what becomes of it
            places[bytes(entry["key"]).decode(errors="replace")] = Extent(file, int(offset), int(length))
    return places
