"""safetensors files, single or sharded: headers are parsed and checked once, data is read on request.

Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, data).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import (
    DTYPE_BITS,
    NUMPY_NAMES,
    Array,
    Checkpoint,
    Extent,
    ShardFile,
    TensorRef,
    numpy_dtype,
)
from jaxconv.errors import SourceError

FORMAT = "safetensors"
PRIORITY = 0
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_NAME = 255  # bytes; of a file, on Linux
MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation


def matches(weights: Path | str) -> bool:
    """Whether the folder has a safetensors model, single or indexed."""
    return isinstance(weights, Path) and any((weights / name).is_file() for name in (SINGLE, INDEX))


def open(weights: Path | str, step: int | None = None) -> Checkpoint:
    """The tensors of a folder with `model.safetensors` or shards and their index."""
    folder = Path(weights)
    if (folder / SINGLE).is_file() and (folder / INDEX).is_file():
        raise SourceError(
            f"{folder} holds both {SINGLE} and {INDEX}: loaders disagree on which one is the model. "
            "Expected one of them; remove the one that is stale."
        )
    if (folder / SINGLE).is_file():
        shards = [read_shard(folder / SINGLE)]
    else:
        shards = _indexed(folder)
    metadata = {key: value for _, _, meta in shards for key, value in meta.items()}
    return Checkpoint(
        format=container(metadata),
        path=str(folder),
        tensors={name: ref for _, refs, _ in shards for name, ref in refs.items()},
        shards=tuple(shard for shard, _, _ in shards),
        metadata=metadata,
    )


def container(metadata: Mapping[str, str]) -> str:
    """The container's name: Flax writes safetensors too, under its own tensor names."""
    return "flax_safetensors" if metadata.get("format") == "flax" else FORMAT


Shard = tuple[ShardFile, dict[str, TensorRef], dict[str, str]]


def _indexed(folder: Path) -> list[Shard]:
    index = folder / INDEX
    weight_map = read_weight_map(index)
    for file in sorted(set(weight_map.values())):
        if not (folder / file).is_file():
            raise SourceError(
                f"{index} names the shard {file}, which is not there. "
                f"Expected {len(set(weight_map.values()))} shards; download the missing one."
            )
    shards = [read_shard(folder / file) for file in sorted(set(weight_map.values()))]
    owner: dict[str, str] = {}
    for shard, refs, _ in shards:
        for name in refs:
            if name in owner:
                raise SourceError(
                    f"tensor {name} is in two shards, {owner[name]} and {shard.path.name}, of {folder}; "
                    "expected it in one. Save the checkpoint again."
                )
            owner[name] = shard.path.name
    wrong = [f"{name} ({file})" for name, file in weight_map.items() if owner.get(name) != file]
    wrong += [f"{name} (not in the index, lies in {file})" for name, file in owner.items() if name not in weight_map]
    if wrong:
        raise SourceError(
            f"{index} and its shards disagree on where {len(wrong)} tensors lie: {', '.join(wrong[:5])}. "
            "Expected each tensor in the shard that the index names; download the checkpoint again."
        )
    return shards


def read_weight_map(index: Path) -> dict[str, str]:
    """The checked `weight_map` of an index: tensor name -> plain file name in the index's folder.

    Raises `SourceError` for anything but a JSON object of strings, and for names that leave the folder.
    """
    try:
        document = json.loads(index.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{index} is no JSON ({error}); expected a weight_map. Download it again.") from None
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(f'{index} has no "weight_map" object; expected tensor names -> shard files.')
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _is_plain(file):
            raise SourceError(
                f"{index} maps {name[:200]} to {file!r:.200}; expected a plain file name in the same folder. "
                "Do not use this checkpoint before you know where it comes from."
            )
    return weight_map


def _is_plain(name: str) -> bool:
    """Whether a name can be that of a file in the same folder."""
    if name in ("", ".", "..") or not {"/", "\\", "\0"}.isdisjoint(name):
        return False
    return len(name.encode("utf-8", "replace")) <= MAX_NAME and name.isprintable()


def read_shard(path: Path) -> Shard:
    """Reads and checks the header of one file: its shard, its tensors by name in file order, its metadata."""
    header, start, size = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise SourceError(f"{path}: __metadata__ is {type(metadata).__name__}; expected an object of strings.")
    refs: dict[str, TensorRef] = {}
    end = 0
    entries = [_entry(path, name, value) for name, value in header.items()]
    for name, dtype, shape, begin, stop in sorted(entries, key=lambda entry: (entry[3], entry[4])):
        if begin != end:
            kind = "overlaps" if begin < end else "leaves a hole after"
            raise SourceError(f"{path}: tensor {name} at byte {begin} {kind} the one that ends at {end}.")
        end = stop
        refs[name] = file_tensor(name, dtype, shape, Extent(path, start + begin, stop - begin))
    if start + end != size:
        finding = "truncated" if start + end > size else "followed by bytes that no tensor owns"
        raise SourceError(f"{path} is {finding}: it has {size} bytes, its header describes {start + end}. Download it again.")
    return ShardFile(path, tuple(refs), size), refs, {key: str(value) for key, value in metadata.items()}


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The JSON header, the offset at which data starts, and the size of the file."""
    size = path.stat().st_size
    if size < 8:
        raise SourceError(f"{path} has {size} bytes; a safetensors file has at least 8. Download it again.")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MAX_HEADER):
            raise SourceError(
                f"{path}: the header claims {length} bytes, the file has {size} (limit {MAX_HEADER}). "
                "It is truncated or no safetensors file; download it again."
            )
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: the header is no JSON ({error}). Download it again.") from None
    if not isinstance(header, dict):
        raise SourceError(f"{path}: the header is a JSON {type(header).__name__}; expected an object.")
    return header, 8 + length, size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _entry(path: Path, name: str, value: Any) -> tuple[str, str, tuple[int, ...], int, int]:
    """One checked entry of a header: name, dtype, shape, first and past-the-end byte within the data."""
    try:
        dtype, shape, (begin, stop) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        numbers = (*shape, begin, stop)
    except (TypeError, KeyError, ValueError):
        raise SourceError(f"{path}: tensor {name} lacks dtype, shape or data_offsets: {value!r:.200}") from None
    if dtype not in DTYPE_BITS:
        raise SourceError(f"{path}: tensor {name} has the unknown dtype {dtype!r}; known: {', '.join(DTYPE_BITS)}.")
    if not all(type(number) is int and number >= 0 for number in numbers) or begin > stop:
        raise SourceError(f"{path}: tensor {name} has shape {list(shape)} and data_offsets {[begin, stop]}.")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != (stop - begin) * 8:
        raise SourceError(
            f"{path}: tensor {name} of {dtype} {list(shape)} needs {bits / 8:g} bytes, its offsets give {stop - begin}."
        )
    return name, dtype, shape, begin, stop


def file_tensor(name: str, dtype: str, shape: tuple[int, ...], extent: Extent) -> TensorRef:
    """A tensor whose bytes lie in a file. Sub-byte dtypes can be copied but not read."""

    def read() -> Array:
        return _read_array(name, dtype, shape, extent.path, extent.offset)

    def take(ids: Sequence[int], axis: int) -> Array:
        import numpy as np

        if axis:
            stored = np.memmap(extent.path, numpy_dtype(dtype), "r", extent.offset, shape)
            return np.asarray(stored.take(list(ids), axis))
        stride = extent.length // shape[0]
        rows = [_read_array(name, dtype, shape[1:], extent.path, extent.offset + i * stride) for i in ids]
        return np.stack(rows)

    return TensorRef(name, dtype, shape, read, take, extent)


def _read_array(name: str, dtype: str, shape: tuple[int, ...], path: Path, offset: int) -> Array:
    import numpy as np

    if dtype not in NUMPY_NAMES:
        raise SourceError(f"{path}: tensor {name} is {dtype}, which can be copied but not read as numbers.")
    array = np.empty(shape, numpy_dtype(dtype))
    view = memoryview(array.reshape(-1).view(np.uint8).data)
    file = os.open(path, os.O_RDONLY)
    try:
        done = 0
        while done < len(view):
            count = os.preadv(file, [view[done:]], offset + done)
            if count == 0:
                raise SourceError(f"{path} ended at byte {offset + done} while {name} was read. Download it again.")
            done += count
    finally:
        os.close(file)
    return array


def header_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...], int]], metadata: Mapping[str, str]) -> bytes:
    """The length prefix and JSON header of a file of `tensors` (name -> dtype, shape, bytes) in that order.

    Padded with spaces to a multiple of 8, as the reference implementation does.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for name, (dtype, shape, nbytes) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + nbytes]}
        begin += nbytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw
