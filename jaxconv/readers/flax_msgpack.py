"""flax msgpack: one file, or shards with an index, as transformers v4 and flax.serialization write them."""

from __future__ import annotations

from pathlib import Path

from jaxconv.checkpoint import Array, Checkpoint, TensorRef, numpy_dtype
from jaxconv.errors import SourceError
from jaxconv.readers._last_read import LastRead
from jaxconv.readers._msgpack import StoredArray, looks_like_msgpack, scan
from jaxconv.readers._training_state import Keys, parameter_names
from jaxconv.readers.safetensors import file_tensor
from jaxconv.shard_index import check_index, read_weight_map, shard_files
from jaxconv.storage import identities_of

FORMAT = "flax_msgpack"
PRIORITY = 1
HAS_STEPS = False
SINGLE = "flax_model.msgpack"
INDEX = "flax_model.msgpack.index.json"


def matches(weights: Path | str) -> bool:
    """Whether `weights` is a directory with a msgpack index, or with one file that begins like a msgpack map of names."""
    if not isinstance(weights, Path) or not weights.is_dir():
        return False
    return (weights / INDEX).is_file() or _single(weights) is not None


def _single(folder: Path) -> Path | None:
    """The file that transformers writes, or the only *.msgpack file; None if there is neither."""
    named = [folder / SINGLE] if (folder / SINGLE).is_file() else sorted(folder.glob("*.msgpack"))
    return named[0] if len(named) == 1 and looks_like_msgpack(named[0]) else None


def open(weights: Path | str, step: int | None = None) -> Checkpoint:
    """The tensors of a directory.

    Args:
        weights: The directory.
        step: Not used: a directory holds one step.

    Raises:
        SourceError: A file is missing or damaged, or index and files disagree.
        RefusedError: The arrays are not a whole model.
    """
    folder = Path(weights)
    single = _single(folder)
    if single is not None and (folder / INDEX).is_file():
        raise SourceError(f"{folder} holds both {SINGLE} and {INDEX}. Expected one of them; remove the one that is stale.")
    files = identities_of(folder.glob("*.msgpack"))
    leaves = scan(single) if single is not None else _indexed(folder)
    arrays = {keys: leaf for keys, leaf in leaves.items() if leaf is not None}
    names, notes = parameter_names(arrays, str(folder))
    tensors = {}
    for keys, name in names.items():
        if name in tensors:
            raise SourceError(f"{folder}: two arrays are called {name}; expected one. Save the model again.")
        tensors[name] = _tensor(name, arrays[keys])
    return Checkpoint(FORMAT, str(folder), tensors, notes=notes, files=files)


def _indexed(folder: Path) -> dict[Keys, StoredArray | None]:
    weight_map = read_weight_map(folder / INDEX)
    leaves: dict[Keys, StoredArray | None] = {}
    files: dict[str, str] = {}
    for file in shard_files(folder / INDEX, weight_map):
        for keys, leaf in scan(file).items():
            if keys in leaves:
                raise SourceError(f"{'/'.join(keys)} is in two shards of {folder}; expected it in one. Save the model again.")
            leaves[keys], files["/".join(keys)] = leaf, file.name
    check_index(folder / INDEX, weight_map, files)
    return leaves


def _tensor(name: str, stored: StoredArray) -> TensorRef:
    if len(stored.parts) == 1:
        return file_tensor(name, stored.dtype, stored.shape, stored.parts[0])
    itemsize = numpy_dtype(stored.dtype).itemsize
    chunks = [file_tensor(name, stored.dtype, (part.length // itemsize,), part) for part in stored.parts]

    def read() -> Array:
        import numpy as np

        whole = np.empty(stored.shape, numpy_dtype(stored.dtype))
        flat, done = whole.reshape(-1), 0
        for chunk in chunks:
            flat[done : done + chunk.shape[0]] = chunk.read()
            done += chunk.shape[0]
        return whole

    whole = LastRead(read)
    return TensorRef(name, stored.dtype, stored.shape, whole.read, lambda ids, axis: whole.read().take(list(ids), axis))
