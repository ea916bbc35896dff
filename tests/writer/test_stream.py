"""Bytes of a written file, whatever the memory order, size and dtype of its tensors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from jaxconv.checkpoint import DTYPE_BITS, NUMPY_NAMES, numpy_dtype
from jaxconv.errors import OutputError
from jaxconv.writer import OutputFile, stream
from jaxconv.writer.local import LocalDirectory
from jaxconv.writer.stream import write_file
from tests.support.refs import array_ref

SHAPES = [(1, 1), (3, 700), (700, 3), (513, 65), (1030, 257), (0, 4)]


def _bits(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Random bits of a dtype; booleans are 0 or 1."""
    size = DTYPE_BITS[dtype] // 8
    raw = np.random.default_rng(0).integers(0, 2 if dtype == "BOOL" else 256, int(np.prod(shape)) * size, np.uint8)
    return raw.view(numpy_dtype(dtype)).reshape(shape)


@pytest.mark.parametrize("dtype", list(NUMPY_NAMES))
def test_transposed_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """Matrices in another memory order come out in C order, bit for bit, at the edges of blocks and tiles too."""
    monkeypatch.setattr(stream, "BLOCK", 1 << 14)
    arrays = {f"t{number}": _bits(shape[::-1], dtype).T for number, shape in enumerate(SHAPES)}
    arrays["strided"] = _bits((64, 3, 40), dtype)[:, 1].T
    arrays["plain"] = _bits((5, 7), dtype)
    counted: list[int] = []
    plan = OutputFile("x.safetensors", tuple(array_ref(name, array) for name, array in arrays.items()))
    assert write_file(plan, LocalDirectory(tmp_path), "copy", counted.append) == "write"
    assert sum(counted) == plan.nbytes
    raw = (tmp_path / "x.safetensors").read_bytes()
    assert raw.endswith(b"".join(array.tobytes() for array in arrays.values()))
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == {
            name: array.shape for name, array in arrays.items()
        }


def test_a_full_disk_is_reported_from_every_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of one block's write reaches the caller."""
    monkeypatch.setattr(stream, "BLOCK", 1 << 10)
    write = os.pwrite

    def full(target: int, view: memoryview, offset: int) -> int:
        if offset > 20_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(target, view, offset)

    monkeypatch.setattr(os, "pwrite", full)
    plan = OutputFile("x.safetensors", (array_ref("t", _bits((100, 200), "F32").T),))
    with pytest.raises(OutputError, match=r"writing x\.safetensors of the output failed: No space left"):
        write_file(plan, LocalDirectory(tmp_path), "copy", lambda nbytes: None)
