"""Targets that are damaged byte by byte: checkpoints as a whole, and the reader of each of their files."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

from jaxconv.readers import open_checkpoint, orbax
from jaxconv.readers._msgpack import looks_like_msgpack, scan
from jaxconv.readers._tensorstore import Location, open_tensors
from jaxconv.readers.safetensors import read_shard
from jaxconv.verification.output import stored_tensors
from tests.fuzz.json_values import damaged_json
from tests.fuzz.target import Target, damaged_bytes

LARGE = 1 << 24  # bytes; the layouts refuse larger claims by the config's shapes before anything is read
OCDBT = ("manifest.ocdbt", "d/*", "ocdbt.process_0/manifest.ocdbt", "ocdbt.process_0/d/*")


def read_checkpoint(folder: Path, damaged: Path) -> None:
    """Opens a checkpoint of any format and reads every tensor."""
    for ref in open_checkpoint(folder).tensors.values():
        if ref.nbytes <= LARGE:
            array = ref.read()
            if array.shape != ref.shape or array.nbytes != ref.nbytes:
                raise AssertionError(f"{ref.name} gave {array.shape}, {array.nbytes} bytes; expected {ref.shape}")


def read_safetensors(folder: Path, damaged: Path) -> None:
    """The header, by jaxconv's reader and by that of `verify`, and the first tensors."""
    refused: list[str] = []
    stored_tensors(damaged, refused)
    _, tensors, _ = read_shard(damaged)
    for ref in list(tensors.values())[:2]:
        ref.read()


def read_msgpack(folder: Path, damaged: Path) -> None:
    """The tree and the places of its arrays."""
    if looks_like_msgpack(damaged):
        scan(damaged)


def read_pickle(folder: Path, damaged: Path) -> None:
    """The tensors of a PyTorch file."""
    from jaxconv.readers.torch_bin import _file

    for ref in _file(damaged).values():
        ref.read()


def damaged_pickle(raw: bytes, dice: random.Random) -> bytes:
    """A damaged archive, or a sound archive with damaged instructions in it, which the unpickler follows."""
    if dice.random() < 0.3:
        return damaged_bytes(raw, dice)
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as good, zipfile.ZipFile(written, "w") as archive:
        for entry in good.infolist():
            content = good.read(entry)
            archive.writestr(entry, damaged_bytes(content, dice) if entry.filename.endswith(".pkl") else content)
    return written.getvalue()


def read_zarr(folder: Path, damaged: Path) -> None:
    """One array by its metadata file."""
    driver = "zarr3" if damaged.name == "zarr.json" else "zarr"
    store = {"driver": "file", "path": f"{damaged.parent}/"}
    refs = open_tensors({"array": {"driver": driver, "kvstore": store, "fill_missing_data_reads": True}}, "fuzz")
    if refs["array"].nbytes <= LARGE:
        refs["array"].read()


def read_tree(folder: Path, damaged: Path) -> None:
    """Orbax's own list of the arrays."""
    orbax._tree(damaged.read_bytes(), str(damaged))


def read_database(folder: Path, damaged: Path) -> None:
    """The arrays that an OCDBT database lists."""
    orbax._listed(Location(folder))


def read_unread(folder: Path, damaged: Path) -> None:
    """Metadata that jaxconv does not use: nothing in it may matter."""
    if len(orbax.open(folder).tensors) != 2:
        raise AssertionError("array_metadatas changed what was read")


WHOLE = ("msgpack", "msgpack_chunked", "safetensors", "orbax", "orbax_folders", "orbax_zarr3", "easydel", "torch_bin")
CONTAINERS: dict[str, Target] = {
    **{f"checkpoint {seed}": Target(seed, read_checkpoint, 3) for seed in WHOLE},
    "safetensors header": Target("safetensors", read_safetensors, 130, ("*.safetensors",)),
    "msgpack tree": Target("msgpack", read_msgpack, 80, ("*.msgpack",)),
    "msgpack chunks": Target("msgpack_chunked", read_msgpack, 50, ("*.msgpack",)),
    "torch pickle": Target("torch_bin", read_pickle, 60, ("*.bin",), damaged_pickle),
    "zarr metadata": Target("orbax_folders", read_zarr, 40, ("*/.zarray",), damaged_json),
    "zarr3 metadata": Target("zarr3_folders", read_zarr, 40, ("*/zarr.json",), damaged_json),
    "_METADATA": Target("orbax", read_tree, 60, ("_METADATA",), damaged_json),
    "OCDBT": Target("orbax", read_database, 30, OCDBT),
    "array_metadatas": Target("orbax", read_unread, 5, ("array_metadatas/*",), damaged_json),
}
