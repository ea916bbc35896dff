"""Builds the sources of the cases from `sources.json`: the text files as recorded, the weights from the tensors' names.

Neither torch's random numbers nor transformers' way of writing decide what a source is, so the same source is built
wherever the record is compared.
"""

from __future__ import annotations

import hashlib
import json
import math
import tarfile
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.golden import texts

FILE = Path(__file__).parent / "sources.json"
FIXTURES = Path(__file__).parents[1] / "foreign" / "fixtures"
# dtype -> (unsigned integer of its size, bits of the fraction, bits of the exponent, its biased value for [1/256, 1/128))
FORMATS = {"BF16": (np.uint16, 7, 8, 119), "F16": (np.uint16, 10, 5, 7), "F32": (np.uint32, 23, 8, 119)}
NUMPY = {"BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}


class Weights(TypedDict):
    """One file of weights. `tensors` maps a name to "DTYPE SIZExSIZE", and the tensor it equals if there is one."""

    metadata: dict[str, str] | None
    tensors: dict[str, str]


class Source(TypedDict):
    """One source folder: file name -> sha256 of a recorded text, and the files of weights."""

    files: dict[str, str]
    weights: dict[str, Weights]


@cache
def sources() -> dict[str, Source]:
    """All recorded sources by name."""
    recorded: dict[str, Source] = json.loads(FILE.read_text("utf-8"))
    return recorded


@cache
def _texts() -> texts.Texts:
    return texts.load()


def build(name: str, folder: Path) -> Path:
    """Writes the source `name` into `folder`."""
    source = sources()[name]
    for file, digest in source["files"].items():
        text = _texts().get(file, digest)
        assert text is not None, f"texts.json lacks {file} of the source {name}"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(text.encode())
    for file, weights in source["weights"].items():
        arrays = {tensor: _array(tensor, *entry.split()) for tensor, entry in weights["tensors"].items()}
        if file.endswith(".bin"):
            _save_bin(arrays, folder / file)
        else:
            save_file(arrays, folder / file, weights["metadata"])
    return folder


def unpack(fixture: str, folder: Path) -> Path:
    """Unpacks what a foreign library wrote, and returns the folder that a user would pass as SOURCE."""
    with tarfile.open(FIXTURES / f"{fixture}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "checkpoint" / json.loads((folder / "case.json").read_text())["weights"]


def _array(name: str, dtype: str, sizes: str, like: str = "") -> np.ndarray[Any, Any]:
    """Values that follow from the tensor's name: all fractions, both signs, sizes from 1/256 to 1.

    Factors of an adapter are small whole numbers over 1024, so that their product is exact in float32 in whatever
    order a machine adds it up.
    """
    shape = tuple(int(size) for size in sizes.split("x") if size)
    count = math.prod(shape)
    if "lora_" in name:
        whole = np.frombuffer(hashlib.shake_128(name.encode()).digest(count), np.int8)
        return (whole.astype(np.float32) / 1024).astype(NUMPY[dtype]).reshape(shape)
    integer, fraction, exponent, smallest = FORMATS[dtype]
    width = np.dtype(integer).itemsize
    bits = np.frombuffer(hashlib.shake_128((like or name).encode()).digest(width * count), f"<u{width}").astype(integer)
    sign = (bits >> (width * 8 - 1)) << (fraction + exponent)
    power = (((bits >> fraction) & 7) + smallest) << fraction
    return (sign | power | (bits & ((1 << fraction) - 1))).astype(integer).view(NUMPY[dtype]).reshape(shape)


def _save_bin(arrays: dict[str, np.ndarray[Any, Any]], path: Path) -> None:
    import torch

    bits = {name: torch.from_numpy(array.view(np.int16)) for name, array in arrays.items()}
    torch.save({name: tensor.view(torch.bfloat16) for name, tensor in bits.items()}, path)


def digest(*folders: Path) -> str:
    """One sha256 over the names and bytes of all files of the folders."""
    total = hashlib.sha256()
    for folder in folders:
        for path in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()
