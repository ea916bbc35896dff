"""PyTorch `.bin` files, mapped into memory and read tensor by tensor."""

from __future__ import annotations

import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

MAX_PICKLE = 1 << 28  # bytes of names, shapes and places of tensors; a million tensors take half of it
MAX_GLOBAL = 512  # characters of a class's name; torch searches its own message about a longer one for minutes
# torch dtype -> safetensors name
DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


def load(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, mapped and not read. Nothing of the pickle runs but what builds tensors.

    Args:
        path: A pytorch_model*.bin, in the zip format of torch 1.6 and later.

    Raises:
        ValueError: The file is not a dict of dense tensors.
    """
    if not _is_zip(path):
        raise ValueError("it is not a zip archive: truncated, or of a torch older than 1.6; load and save it again")
    try:
        _check_pickle(path)
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, struct.error) as error:
        raise ValueError(f"it is not a readable zip archive: {error}") from None
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged pickle calls what it may call with any arguments, and any error may come of it
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        asked = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
        reason = asked[0] if asked else (lines[0] if lines else type(error).__name__)
        raise ValueError(f"its pickle asks for more than tensors, or is damaged: {reason}") from None
    if not isinstance(tensors, dict):
        raise ValueError(f"it holds a {type(tensors).__name__}, not names and tensors")
    for name, value in tensors.items():
        if (
            not isinstance(name, str)
            or not isinstance(value, torch.Tensor)
            or value.layout != torch.strided
            or value.dtype not in DTYPES
        ):
            raise ValueError(f"its entry {name!r} is not a dense tensor of a known dtype")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(
                f"its entry {name!r} has {value.numel()} elements, more than its storage holds (repeated by strides)"
            )
    return tensors


def _check_pickle(path: Path) -> None:
    """Raises `ValueError` for a compressed record (torch stores them as they are) or a pickle that is too large or odd."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > path.stat().st_size:
                raise ValueError(f"its record {entry.filename[:100]!r} is compressed, which torch never does")
            if entry.filename.endswith("data.pkl"):
                if entry.file_size > MAX_PICKLE:
                    raise ValueError(f"its pickle has {entry.file_size} bytes, more than {MAX_PICKLE}")
                _check_globals(archive.read(entry))


def _check_globals(raw: bytes) -> None:
    """Raises `ValueError` for a pickle that is damaged, or that names a class by more characters than any class has."""
    try:
        names = (str(argument) for opcode, argument, _ in pickletools.genops(raw) if opcode.name == "GLOBAL")
        longest = max(map(len, names), default=0)
    except Exception as error:  # of damaged bytes pickletools raises whatever a decoder raises
        raise ValueError(f"its pickle is damaged: {str(error)[:200]}") from None
    if longest > MAX_GLOBAL:
        raise ValueError(f"its pickle names a class by {longest} characters, more than {MAX_GLOBAL}")


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # of a directory that contradicts itself it is raised
        return False


def to_numpy(tensor: torch.Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The tensor's values as an array of the NumPy (or ml_dtypes) dtype of the same bits, in C order."""
    dense = tensor.detach().contiguous()
    return dense.reshape(-1).view(torch.uint8).numpy().view(dtype).reshape(tuple(tensor.shape))
