"""safetensors files, single or sharded: headers are parsed and checked once, data is read on request.

Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, data).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jaxconv.checkpoint import (
    NUMPY_NAMES,
    Array,
    Checkpoint,
    Extent,
    FileIdentity,
    ShardFile,
    TensorRef,
    map_extent,
    numpy_dtype,
)
from jaxconv.errors import SourceError
from jaxconv.json_files import read_object
from jaxconv.safetensors_header import INDEX, SINGLE, format_of, read_header

FORMAT = "safetensors"
PRIORITY = 0
MAX_NAME = 255  # bytes of a file name on Linux


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
    metadata = {key: value for shard, _, _ in shards for key, value in shard.metadata.items()}
    return Checkpoint(
        format=format_of(metadata),
        path=str(folder),
        tensors={name: ref for _, refs, _ in shards for name, ref in refs.items()},
        shards=tuple(shard for shard, _, _ in shards),
        metadata=metadata,
        files={shard.path: identity for shard, _, identity in shards},
    )


Shard = tuple[ShardFile, dict[str, TensorRef], FileIdentity]


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
    weight_map = read_object(index, "the index of the shards").get("weight_map")
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
    """Reads and checks the header of one file: its shard, its tensors by name in file order, its identity."""
    header = read_header(path)
    refs = {
        name: file_tensor(
            name, entry.dtype, entry.shape, Extent(path, header.data_start + entry.begin, entry.end - entry.begin)
        )
        for name, entry in header.tensors.items()
    }
    return ShardFile(path, tuple(refs), header.identity.size, header.metadata), refs, header.identity


def file_tensor(name: str, dtype: str, shape: tuple[int, ...], extent: Extent) -> TensorRef:
    """A tensor whose bytes lie in a file. Sub-byte dtypes can be copied but not read."""

    def read() -> Array:
        return _read_array(name, dtype, shape, extent.path, extent.offset)

    def take(ids: Sequence[int], axis: int) -> Array:
        import numpy as np

        if axis:
            return map_extent(extent, dtype, shape).take(list(ids), axis)
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
