"""Large arrays are read part by part, and the files are the same as if they were read as a whole."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
import zstandard

import jaxconv
from jaxconv.errors import SourceError
from jaxconv.readers import open_checkpoint
from jaxconv.readers._streamed_chunk import database_places, streamed
from tests.foreign.cases import TOKENS, unpack

PARTS = 1 << 10  # bytes; the stacks of the case are larger


@pytest.mark.parametrize("chunk", [None, PARTS])
def test_stacks_are_put_together_from_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int | None) -> None:
    """A scanned MaxText checkpoint gives the same bytes in parts: one zstd chunk an array, and many chunks."""
    case = unpack("maxtext/qwen3_scanned_tied", tmp_path)
    tree: dict[str, Any] = {}
    for name, ref in open_checkpoint(case.weights).tensors.items():
        *path, leaf = name.split(".")
        at = tree
        for key in path:
            at = at.setdefault(key, {})
        at[leaf] = ref.read()
    saved = {"params": {"params": tree}}
    arguments = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=chunk), saved)
    ocp.PyTreeCheckpointer().save(tmp_path / "saved", saved, save_args=arguments)

    def convert(name: str) -> bytes:
        jaxconv.convert(
            tmp_path / "saved", tmp_path / name, base=case.original, classifier_from_tokens=TOKENS, backend="numpy"
        )
        return (tmp_path / name / "model.safetensors").read_bytes()

    whole = convert("whole")
    for module in ("_tensorstore", "_streamed_chunk"):
        monkeypatch.setattr(importlib.import_module(f"jaxconv.readers.{module}"), "BOX", PARTS)
    assert any(ref.boxes for ref in open_checkpoint(tmp_path / "saved").tensors.values())
    assert convert("parts") == whole


def wrong_checksum(content: bytes) -> bytes:
    """A zstd frame of the content whose checksum, the last four bytes, is another one's."""
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(content)
    return frame[:-1] + bytes([frame[-1] ^ 1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: zstandard.compress(content[:-4]), "ends too early"),
        (lambda content: zstandard.compress(content + bytes(4)), "longer than the array"),
        (wrong_checksum, "checksum"),
    ],
)
def test_a_damaged_chunk_is_an_error(tmp_path: Path, damage: Any, message: str) -> None:
    """A chunk that is decompressed as a stream has to be as long as its array, and to agree with its checksum."""
    metadata = {"shape": [4, 3], "chunks": [4, 3], "dtype": "<f4", "compressor": {"id": "zstd", "level": 1}}
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{tmp_path}/"}, "metadata": metadata, "create": True}
    array = tensorstore.open(spec).result()
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    array.write(values).result()
    boxes = streamed(array, "F32", {}, "array a")
    assert boxes is not None and np.array_equal(np.concatenate([part for _, part in boxes.read()]), values)
    (tmp_path / "0.0").write_bytes(damage(values.tobytes()))
    boxes = streamed(array, "F32", {}, "array a")
    assert boxes is not None
    with pytest.raises(SourceError, match=f"array a cannot be read.*{message}"):
        list(boxes.read())


def test_a_database_names_no_file_outside(tmp_path: Path) -> None:
    """Only files in the checkpoint's directory are read past TensorStore."""
    root = tmp_path / "checkpoint"
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{root}/"}, "config": {"max_inline_value_bytes": 0}}
    tensorstore.KvStore.open(store).result().write("key", bytes(range(200)) * 10).result()
    base = {"driver": "file", "path": f"{root}/"}
    (place,) = database_places(base, root).values()
    assert isinstance(place.path, Path) and place.path.is_relative_to(root) and place.path.is_file()
    (root / "d").rename(tmp_path / "elsewhere")
    (root / "d").symlink_to(tmp_path / "elsewhere")
    assert database_places(base, root) == {}
