"""PyTorch `.bin` files, single or sharded, for sources that have no safetensors. Needs torch, by torch_backend."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import Array, Checkpoint, FileIdentity, TensorRef, numpy_dtype
from jaxconv.errors import SourceError
from jaxconv.readers.safetensors import read_weight_map

FORMAT = "torch_bin"
PRIORITY = 9
SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"


def matches(weights: Path | str) -> bool:
    """Whether the folder has a PyTorch model, single or indexed."""
    return isinstance(weights, Path) and any((weights / name).is_file() for name in (SINGLE, INDEX))


def open(weights: Path | str, step: int | None = None) -> Checkpoint:
    """The tensors of all files, mapped and not read.

    Raises `SourceError` without torch, for a pickle that wants more than tensors, and for an index that is wrong.
    """
    folder = Path(weights)
    if importlib.util.find_spec("torch") is None:
        raise SourceError(
            f"{folder} has only PyTorch .bin files, which need torch to be read. "
            "Install it with: pip install 'jaxconv[torch]'; or save the model as safetensors."
        )
    indexed = not (folder / SINGLE).is_file()
    weight_map = read_weight_map(folder / INDEX) if indexed else {}
    files = FileIdentity.of_files(folder / file for file in {SINGLE, *weight_map.values()})
    tensors: dict[str, TensorRef] = {}
    for file in sorted(set(weight_map.values())) if indexed else [SINGLE]:
        for name, ref in _file(folder / file).items():
            if name in tensors or (indexed and weight_map.get(name) != file):
                raise SourceError(f"tensor {name} of {folder / file} is not where {INDEX} says, or in two shards.")
            tensors[name] = ref
    missing = [name for name in weight_map if name not in tensors]
    if missing:
        raise SourceError(f"{folder / INDEX} lists {missing[0]} and {len(missing) - 1} more that no shard has.")
    return Checkpoint(FORMAT, str(folder), tensors, files=files)


def _file(path: Path) -> dict[str, TensorRef]:
    from torch_backend.bin import DTYPES, load

    if not path.is_file():
        raise SourceError(f"{path.parent / INDEX} names the shard {path.name}, which is not there. Download it.")
    try:
        found = load(path)
    except ValueError as error:
        raise SourceError(
            f"{path} cannot be read safely: {error}. Expected a dict of tensors; save the model as safetensors."
        ) from None
    return {name: _ref(name, DTYPES[tensor.dtype], tensor) for name, tensor in found.items()}


def _ref(name: str, dtype: str, tensor: Any) -> TensorRef:
    from torch_backend.bin import to_numpy

    def read() -> Array:
        return to_numpy(tensor, numpy_dtype(dtype))

    def take(ids: Sequence[int], axis: int) -> Array:
        return to_numpy(tensor.movedim(axis, 0)[list(ids)].movedim(0, axis), numpy_dtype(dtype))

    return TensorRef(name, dtype, tuple(tensor.shape), read, take)
