"""A bounded run of the fuzz target, and proof that it can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jaxconv.errors import SourceError
from jaxconv.readers import torch_bin
from tests.fuzz import __main__ as fuzz
from tests.fuzz.seeds import SEEDS

ROOT = Path(__file__).parents[2]


def test_no_finding_in_ten_seconds() -> None:
    """Every container is damaged some times, in a process of its own, so that a crash is a finding too."""
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "10"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-3000:]
    assert all(f"{name}: " in ran.stdout for name in SEEDS) and " 0 refused" not in ran.stdout


def test_json_values_of_a_wrong_type() -> None:
    """Every JSON file of a model and of an adapter, one value changed: no exception but ours."""
    command = [sys.executable, "-m", "tests.fuzz.json_values", "--seconds", "10"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-3000:]
    assert int(ran.stdout.split(" cases")[0].splitlines()[-1]) >= 20


@pytest.mark.parametrize("wrong", ["error", "file", "memory"])
def test_what_is_wrong_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """Another exception, a file that is written and memory that is taken each end a case."""
    (tmp_path / "good" / "msgpack").mkdir(parents=True)
    SEEDS["msgpack"](tmp_path / "good" / "msgpack")

    def read(folder: Path) -> str:
        if wrong == "error":
            raise ValueError("not ours")
        if wrong == "file":
            (folder.parents[1] / "outside").write_text("x")
        return "tensors"

    monkeypatch.setattr(fuzz, "_read", read)
    if wrong == "memory":
        peaks = iter((0, 2 * fuzz.CASE_BYTES, 2 * fuzz.CASE_BYTES))
        monkeypatch.setattr(fuzz, "_peak", lambda: next(peaks))
    said = {"error": "not ours", "file": "files changed", "memory": "128 MB"}[wrong]
    with pytest.raises((AssertionError, ValueError), match=said):
        fuzz._case(tmp_path, tmp_path / "good" / "msgpack", "msgpack", 0, 0)


def test_a_zip_directory_that_contradicts_itself(tmp_path: Path) -> None:
    """zipfile raises of an archive said to span several disks; the reader says that it is none."""
    SEEDS["torch_bin"](tmp_path)
    path = tmp_path / "pytorch_model.bin"
    raw = bytearray(path.read_bytes())
    place = raw.rindex(b"PK\x06\x07")  # the locator of the zip64 directory; its last number counts disks
    raw[place + 16] = 9
    path.write_bytes(raw)
    with pytest.raises(SourceError, match="no zip archive"):
        torch_bin.open(tmp_path)
