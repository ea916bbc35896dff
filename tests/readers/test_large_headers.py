"""Headers of very many tensors, in bounded memory and time; and what a compact reading must still see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxconv.errors import SourceError
from jaxconv.safetensors_header import header_bytes, read_header

COUNT = 200_000
MEASURE = """
import json, resource, sys, time
from pathlib import Path
from jaxconv.readers.safetensors import read_shard
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
_, tensors, _ = read_shard(Path(sys.argv[1]))
kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"tensors": len(tensors), "bytes": kib * 1024, "seconds": time.process_time() - started}))
"""


def write(path: Path, header: dict[str, Any], nbytes: int) -> Path:
    """A file of any header."""
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(nbytes))
    return path


@pytest.mark.skipif(sys.platform == "darwin", reason="its ru_maxrss counts bytes")
def test_two_hundred_thousand_tensors(tmp_path: Path) -> None:
    """Under 1.1 KB and 40 microseconds a tensor; it was 1.5 KB, and the time grew faster than the count."""
    header = header_bytes({f"l.{number}.w": ("BF16", (2, 2), 8) for number in range(COUNT)}, {})
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 8 * COUNT)
    ran = subprocess.run([sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, text=True)
    measured = json.loads(ran.stdout)
    assert measured["tensors"] == COUNT
    assert measured["bytes"] < 1_100 * COUNT and measured["seconds"] < 40e-6 * COUNT, measured


@pytest.mark.parametrize(
    "value",
    [
        ["F32", [1], [0, 4]], "abc", {"dtype": "F32", "shape": [1]}, {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}, {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}, None, 5, [], {},
    ],
)  # fmt: skip
def test_an_entry_that_is_no_tensor(tmp_path: Path, value: Any) -> None:
    """Only an object with all three values is one, whatever their order."""
    with pytest.raises(SourceError, match="tensor a "):
        read_header(write(tmp_path / "model.safetensors", {"a": value}, 4))


def test_an_entry_may_hold_more(tmp_path: Path) -> None:
    """Other readers ignore further keys; a key that occurs twice is an error."""
    entry = {"note": 1, "data_offsets": [0, 4], "shape": [1], "dtype": "F32"}
    header = read_header(write(tmp_path / "model.safetensors", {"a": entry, "__metadata__": {"format": "pt"}}, 4))
    assert header.tensors["a"].shape == (1,) and header.metadata == {"format": "pt"}
    raw = b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (tmp_path / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(4))
    with pytest.raises(SourceError, match="a name occurs twice"):
        read_header(tmp_path / "model.safetensors")
