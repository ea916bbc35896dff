"""flax msgpack files: read where they lie, and never trusted."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import flax.serialization
import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxconv.errors import JaxconvError, SourceError
from jaxconv.readers import flax_msgpack, open_checkpoint
from jaxconv.readers._msgpack import MAX_DEPTH, scan

FILE = "flax_model.msgpack"
TREE = {"model": {"norm": {"weight": np.arange(6, dtype=np.float32)}, "w": np.ones((4, 3), ml_dtypes.bfloat16)}}

names = st.text(st.characters(codec="utf-8", exclude_characters="./"), min_size=1, max_size=8)
plain = hnp.arrays(st.sampled_from([np.float32, np.float16, np.int32, np.bool_]), hnp.array_shapes(min_dims=0, max_side=5))
arrays = plain | hnp.arrays(np.uint16, hnp.array_shapes(max_side=5)).map(lambda array: array.view(ml_dtypes.bfloat16))
trees = st.dictionaries(
    names, st.recursive(arrays, lambda leaf: st.dictionaries(names, leaf, min_size=1, max_size=3)), min_size=1
)


def _flat(tree: dict, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found = {}
    for key, value in tree.items():
        found |= _flat(value, (*at, key)) if isinstance(value, dict) else {(*at, key): value}
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees, chunk=st.sampled_from([2**30, 8]))
def test_every_tree_that_flax_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: dict, chunk: int) -> None:
    """Whatever flax.serialization writes, whole or in chunks, is found with its dtype, shape and bytes."""
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", chunk)
    path = tmp_path / FILE
    path.write_bytes(flax.serialization.to_bytes(tree))
    found, expected = scan(path), _flat(tree)
    assert found.keys() == expected.keys()
    for keys, stored in found.items():
        array = np.asarray(expected[keys])
        assert stored is not None and stored.shape == array.shape
        assert flax_msgpack._tensor("x", stored).read().tobytes() == array.tobytes()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_or_another_value(tmp_path: Path, data: st.DataObject) -> None:
    """Truncated or with bytes changed, a file gives a JaxconvError or tensors, never another exception."""
    raw = bytearray(flax.serialization.to_bytes(TREE))
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    for _ in range(data.draw(st.integers(1, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / FILE).write_bytes(raw)
    try:
        checkpoint = open_checkpoint(tmp_path)
    except JaxconvError:
        return
    for ref in checkpoint.tensors.values():
        assert ref.read().shape == ref.shape


def test_every_truncation_is_found(tmp_path: Path) -> None:
    """A file cut anywhere is refused."""
    raw = flax.serialization.to_bytes(TREE)
    for length in range(len(raw)):
        (tmp_path / FILE).write_bytes(raw[:length])
        with pytest.raises(SourceError):
            scan(tmp_path / FILE)


def _array(shape: list[int], dtype: str, raw: bytes) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, raw)))


DEEP = b"\x81\xa1a" * 100_000 + b"\x80"
HOSTILE = {
    "deep": DEEP,
    "entries": b"\xdf\xff\xff\xff\xff\xa1a\xc0",
    "bytes": b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
    "key": b"\x81\xdb\xff\xff\xff\xff",
    "long key": msgpack.packb({"k" * 5000: 1}),
    "number key": msgpack.packb({1: 2}),
    "shape": msgpack.packb({"a": _array([2**40, 2**40], "float32", b"")}),
    "negative": msgpack.packb({"a": _array([-1], "float32", b"")}),
    "rank": msgpack.packb({"a": _array([1] * 100, "float32", b"\0\0\0\0")}),
    "dtype": msgpack.packb({"a": _array([1], "object", b"\0" * 8)}),
    "short": msgpack.packb({"a": _array([2], "float32", b"\0" * 4)}),
    "twice": b"\x82\xa1a\xc0\xa1a\xc0",
    "list": msgpack.packb({"a": [1, 2]}),
    "extension": msgpack.packb({"a": msgpack.ExtType(9, b"x")}),
    "trailing": msgpack.packb({"a": 1}) + b"\0",
    "chunks": msgpack.packb({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": {}}}),
    "chunk sizes": msgpack.packb(
        {"a": {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": {"0": _array([1], "float32", b"\0" * 4)}}}
    ),
    "nested extension": msgpack.packb({"a": msgpack.ExtType(1, struct.pack(">B", 0x93))}),
    "empty": b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_fast_and_small(tmp_path: Path, kind: str) -> None:
    """Huge lengths, deep nesting, wrong dtypes and shapes: a SourceError naming the file, in bounded time and memory."""
    path = tmp_path / FILE
    path.write_bytes(HOSTILE[kind])
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(SourceError, match=FILE):
        scan(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - started < 2 and peak < 20_000_000
    assert MAX_DEPTH < 1000


def test_a_name_alone_makes_no_checkpoint(tmp_path: Path) -> None:
    """A file called like a Flax model that begins otherwise is not taken for one."""
    (tmp_path / FILE).write_bytes(b"not msgpack at all")
    with pytest.raises(SourceError, match="holds no weights"):
        open_checkpoint(tmp_path)
