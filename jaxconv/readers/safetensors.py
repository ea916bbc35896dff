"""safetensors files, single or sharded: headers are parsed and checked once, data is read on request.

Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, data).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxconv.checkpoint import (
    NUMPY_NAMES,
    Array,
    Checkpoint,
    Extent,
    ShardFile,
    TensorRef,
    map_extent,
    read_array,
)
from jaxconv.errors import SourceError
from jaxconv.json_files import read_optional_object
from jaxconv.safetensors_header import INDEX, SINGLE, format_of, read_header, uncollected
from jaxconv.shard_index import check_index, read_weight_map, shard_files
from jaxconv.storage import File, FileIdentity, available, located

FORMAT = "safetensors"
PRIORITY = 0
HAS_STEPS = False
# Names with a meaning of their own in an output, which no shard may have.
RESERVED = frozenset({SINGLE, "model-score.safetensors", "model-backbone.safetensors"})


def matches(weights: Path | str) -> bool:
    """Whether `weights` is a directory with a safetensors model, single or indexed."""
    folder = available(weights)
    return folder is not None and any((folder / name).is_file() for name in (SINGLE, INDEX))


def open(weights: Path | str, step: int | None = None) -> Checkpoint:
    """The tensors of a directory with `model.safetensors`, or with shards and their index.

    Args:
        weights: The directory, or its address in an object store.
        step: Not used: a directory holds one step.

    Raises:
        SourceError: A file is missing or damaged, or index and files disagree.
    """
    folder = located(weights)
    shards = [read_shard(folder / SINGLE)] if _is_single(folder) else _indexed(folder / INDEX)
    metadata = {key: value for shard, _, _ in shards for key, value in shard.metadata.items()}
    files = tuple(file for file, _, _ in shards)
    loadable = len(files) == 1 or all(_can_keep_name(file.path.name) for file in files)
    return Checkpoint(
        format=format_of(metadata),
        path=str(folder),
        tensors={name: ref for _, refs, _ in shards for name, ref in refs.items()},
        shards=files if loadable else (),
        metadata=metadata,
        files={shard.path: identity for shard, _, identity in shards},
    )


Shard = tuple[ShardFile, dict[str, TensorRef], FileIdentity]


def _is_single(folder: File) -> bool:
    """Whether the model is one file: without an index, or with one that names that file alone, as MLX writes it.

    Raises `SourceError` where there are both and the index names other files.
    """
    if not (folder / SINGLE).is_file():
        return False
    document = read_optional_object(folder / INDEX)
    if document is None:
        return True
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or any(file != SINGLE for file in weight_map.values()) or not weight_map:
        raise SourceError(
            f"{folder} holds both {SINGLE} and {INDEX}, which names other files: loaders disagree on which one is the model. "
            "Expected one of them; remove the one that is stale."
        )
    return True


def _can_keep_name(name: str) -> bool:
    """Whether an output may hold a shard under this name: vLLM reads *.safetensors, and some names mean other files."""
    return name.endswith(".safetensors") and name not in RESERVED


def _indexed(index: File) -> list[Shard]:
    weight_map = read_weight_map(index)
    shards = [read_shard(file) for file in shard_files(index, weight_map)]
    files: dict[str, str] = {}
    for shard, refs, _ in shards:
        for name in refs:
            if name in files:
                raise SourceError(
                    f"tensor {name} is in two shards, {files[name]} and {shard.path.name}, of {index.parent}; "
                    "expected it in one. Save the checkpoint again."
                )
            files[name] = shard.path.name
    check_index(index, weight_map, files)
    return shards


def read_shard(path: File) -> Shard:
    """Reads and checks the header of the file at `path`.

    Returns:
        The shard, its tensors by name in file order, and the file's identity.

    Raises:
        SourceError: The file is damaged or cannot be read.
    """
    with uncollected():
        header = read_header(path)
        refs = {
            name: file_tensor(
                name, entry.dtype, entry.shape, Extent(path, header.data_start + entry.begin, entry.end - entry.begin)
            )
            for name, entry in header.tensors.items()
        }
    return ShardFile(path, tuple(refs), header.identity.size, header.metadata), refs, header.identity


def file_tensor(name: str, dtype: str, shape: tuple[int, ...], extent: Extent) -> TensorRef:
    """A tensor whose bytes lie in a file. Sub-byte dtypes can be copied but not read.

    Args:
        name: The tensor's name.
        dtype: Its safetensors dtype name.
        shape: Its shape.
        extent: Where its bytes lie.
    """
    stored = _FileTensor(name, dtype, shape, extent)
    return TensorRef(name, dtype, shape, stored.read, stored.take, extent)


@dataclass(frozen=True, slots=True)
class _FileTensor:
    """What reads a tensor of a file. A checkpoint may have a million, so it is smaller than two functions with closures."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    extent: Extent

    def read(self) -> Array:
        return _read_array(self.name, self.dtype, self.shape, self.extent.path, self.extent.offset)

    def take(self, ids: Sequence[int], axis: int) -> Array:
        import numpy as np

        name, dtype, shape, extent = self.name, self.dtype, self.shape, self.extent
        if axis:
            return map_extent(extent, dtype, shape).take(list(ids), axis)
        stride = extent.length // shape[0]
        rows = [_read_array(name, dtype, shape[1:], extent.path, extent.offset + i * stride) for i in ids]
        return np.stack(rows)


def _read_array(name: str, dtype: str, shape: tuple[int, ...], path: File, offset: int) -> Array:
    if dtype not in NUMPY_NAMES:
        raise SourceError(f"{path}: tensor {name} is {dtype}, which can be copied but not read as numbers.")
    return read_array(path, offset, dtype, shape)
