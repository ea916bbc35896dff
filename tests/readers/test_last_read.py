"""One array is held at a time, so that rows, layers and parts are not read again, and no more is kept."""

from __future__ import annotations

import collections
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

import jaxconv
from jaxconv.readers._last_read import LastRead
from tests.foreign.cases import TOKENS, unpack


def test_the_last_one_is_held_alone() -> None:
    """Asked again it is not read again; when another is read it is gone before that one is there."""
    reads: list[str] = []
    made: list[weakref.ref[np.ndarray]] = []

    def reader(name: str) -> LastRead:
        def read() -> np.ndarray:
            gc.collect()
            assert not any(array() is not None for array in made)
            reads.append(name)
            array = np.ones(3)
            made.append(weakref.ref(array))
            return array

        return LastRead(read)

    first, second = reader("first"), reader("second")
    for one in (first, first, second, second, first):
        one.read()
    assert reads == ["first", "second", "first"]
    assert first.held and not second.held
    del first, one
    gc.collect()
    assert made[-1]() is None


def test_stacked_layers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scanned MaxText checkpoint is read once an array, the embedding once more for the head's rows."""
    reads: collections.Counter[str] = collections.Counter()

    class Counting(LastRead):
        def read(self) -> np.ndarray:
            reads[str(id(self))] += not self.held
            return super().read()

    monkeypatch.setattr("jaxconv.readers._tensorstore.LastRead", Counting)
    case = unpack("maxtext/qwen3_scanned_tied", tmp_path)
    made = jaxconv.convert(case.weights, tmp_path / "out", base=case.original, classifier_from_tokens=TOKENS, backend="numpy")
    assert made.plan.model.layout == "maxtext"
    stacks = 11
    assert sorted(reads.values()) in ([1] * (stacks + 2), [1] * (stacks + 1) + [2])
