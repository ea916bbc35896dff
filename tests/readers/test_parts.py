"""Large arrays are read part by part, and the files are the same as if they were read as a whole."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import pytest

import jaxconv
from jaxconv.readers import open_checkpoint
from tests.foreign.cases import TOKENS, unpack

PARTS = 1 << 10  # bytes; the stacks of the case are larger


@pytest.mark.parametrize("chunk", [None, PARTS])
def test_stacks_are_put_together_from_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int | None) -> None:
    """A scanned MaxText checkpoint gives the same bytes in parts: one zstd chunk an array, and many chunks."""
    if chunk is None:
        pytest.importorskip("zstandard")
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
