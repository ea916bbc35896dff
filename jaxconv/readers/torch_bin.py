"""PyTorch `.bin` files, single or sharded, for sources that have no safetensors. Needs torch, by torch_backend."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import Array, Checkpoint, TensorRef, numpy_dtype
from jaxconv.errors import SourceError
from jaxconv.file_errors import reading
from jaxconv.shard_index import check_index, read_weight_map, shard_files
from jaxconv.storage import identities_of

FORMAT = "torch_bin"
PRIORITY = 9
HAS_STEPS = False
SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
DIRECTORY = 1 << 16  # bytes at the end of an archive that its directory is looked for in


def matches(weights: Path | str) -> bool:
    """Whether `weights` is a directory with a PyTorch model, single or indexed."""
    return isinstance(weights, Path) and any((weights / name).is_file() for name in (SINGLE, INDEX))


def open(weights: Path | str, step: int | None = None) -> Checkpoint:
    """The tensors of all files, mapped and not read.

    Args:
        weights: The directory.
        step: Not used: a directory holds one step.

    Raises:
        SourceError: torch is not installed, a pickle asks for more than tensors, or index and files disagree.
    """
    folder = Path(weights)
    if importlib.util.find_spec("torch") is None:
        raise SourceError(
            f"{folder} has only PyTorch .bin files, which need torch to be read. "
            "Install it with: pip install 'jaxconv[torch]'; or save the model as safetensors."
        )
    if (folder / SINGLE).is_file():
        identities = identities_of([folder / SINGLE])
        return Checkpoint(FORMAT, str(folder), _file(folder / SINGLE), files=identities)
    weight_map = read_weight_map(folder / INDEX)
    tensors: dict[str, TensorRef] = {}
    files: dict[str, str] = {}
    shards = shard_files(folder / INDEX, weight_map)
    identities = identities_of(shards)
    for file in shards:
        for name, ref in _file(file).items():
            if name in tensors:
                raise SourceError(f"tensor {name} is in two shards, {files[name]} and {file.name}. Save the model again.")
            tensors[name], files[name] = ref, file.name
    check_index(folder / INDEX, weight_map, files)
    return Checkpoint(FORMAT, str(folder), tensors, files=identities)


def _file(path: Path) -> dict[str, TensorRef]:
    from torch_backend.bin import DTYPES, load

    with reading(path), path.open("rb") as file:  # zipfile takes an archive whose end cannot be read for none
        file.seek(-min(path.stat().st_size, DIRECTORY), os.SEEK_END)
        file.read()
    try:
        tensors = load(path)
    except ValueError as error:
        raise SourceError(
            f"{path} cannot be read safely: {error}. Expected a dict of tensors; save the model as safetensors."
        ) from None
    return {name: _ref(name, DTYPES[tensor.dtype], tensor) for name, tensor in tensors.items()}


def _ref(name: str, dtype: str, tensor: Any) -> TensorRef:
    from torch_backend.bin import to_numpy

    def read() -> Array:
        return to_numpy(tensor, numpy_dtype(dtype))

    def take(ids: Sequence[int], axis: int) -> Array:
        return to_numpy(tensor.movedim(axis, 0)[list(ids)].movedim(0, axis), numpy_dtype(dtype))

    return TensorRef(name, dtype, tuple(tensor.shape), read, take)
