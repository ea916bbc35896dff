"""Good checkpoints of every container, small, to be damaged: `python -m tests.fuzz.seeds DIRECTORY [NAME ...]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import flax.serialization
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import torch
from safetensors.numpy import save_file

from tests.fuzz.document_seeds import DOCUMENTS

ARRAYS = {
    "model.norm.weight": np.arange(6, dtype=np.float32),
    "model.embed_tokens.embedding": np.arange(24).reshape(6, 4).astype(ml_dtypes.bfloat16),
}


def _tree() -> dict[str, object]:
    tree: dict[str, object] = {}
    for name, array in ARRAYS.items():
        *keys, leaf = name.split(".")
        at = tree
        for key in keys:
            at = at.setdefault(key, {})  # type: ignore[assignment]
        at[leaf] = array
    return tree


def msgpack(folder: Path) -> None:
    """As transformers' Flax models and flax.serialization write it."""
    (folder / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(_tree()))


def msgpack_chunked(folder: Path) -> None:
    """An array in chunks, as of one above a gibibyte."""
    limit = flax.serialization.MAX_CHUNK_SIZE
    flax.serialization.MAX_CHUNK_SIZE = 8
    try:
        msgpack(folder)
    finally:
        flax.serialization.MAX_CHUNK_SIZE = limit


def safetensors(folder: Path) -> None:
    """Two shards and their index."""
    where = {}
    for number, (name, array) in enumerate(ARRAYS.items()):
        where[name] = f"model-{number}.safetensors"
        save_file({name: array}, folder / where[name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def orbax(folder: Path) -> None:
    """OCDBT, as Orbax writes by default."""
    ocp.PyTreeCheckpointer().save(folder, _jax(), force=True)


def orbax_folders(folder: Path) -> None:
    """One zarr folder an array."""
    ocp.PyTreeCheckpointer(use_ocdbt=False).save(folder, _jax(), force=True)


def orbax_zarr3(folder: Path) -> None:
    """zarr3 in OCDBT, as MaxText writes."""
    ocp.PyTreeCheckpointer(use_zarr3=True).save(folder, _jax(), force=True)


def _jax() -> dict[str, object]:
    return {"params": {name: jnp.asarray(array) for name, array in ARRAYS.items()}}


def easydel(folder: Path) -> None:
    """EasyDeL's index over zarr folders."""
    import tensorstore

    entries = []
    for name, array in ARRAYS.items():
        path = f"model/{name.replace('.', '/')}"
        store = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{folder}/{path}/"}}
        made = tensorstore.open(store, create=True, dtype=array.dtype.name, shape=array.shape).result()
        made.write(array).result()
        entries.append({"path": path, "shape": list(array.shape), "dtype": array.dtype.name})
    index = {"format": "tensorstore", "version": "easydel", "prefixes": {"model": entries}}
    (folder / "tensorstore_index.json").write_text(json.dumps(index))


def torch_bin(folder: Path) -> None:
    """PyTorch's pickle in a zip archive."""
    torch.save({name: torch.tensor(array.astype(np.float32)) for name, array in ARRAYS.items()}, folder / "pytorch_model.bin")


SEEDS: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (msgpack, msgpack_chunked, safetensors, orbax, orbax_folders, orbax_zarr3, easydel, torch_bin)
}


def main(directory: Path, *names: str) -> None:
    """Writes the good folders of these names, a folder each."""
    for name in names:
        (directory / name).mkdir()
        {**SEEDS, **DOCUMENTS}[name](directory / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
