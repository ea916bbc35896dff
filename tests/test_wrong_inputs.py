"""Every wrong input ends in a message that helps, and changes nothing."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from jaxconv.cli import main
from tests.support.tiny import tiny_checkpoint
from tests.support.wrong_inputs import CASES, GOOD, Case


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny tied Qwen3 in three shards."""
    return tiny_checkpoint(tmp_path_factory.mktemp("sharded") / "model", "qwen3", tie=True, shards=3)


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below a folder with the hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrong_input(
    case: Case,
    qwen3: Path,
    sharded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 1 or 2, a message with finding and next step, no traceback; source and neighbours untouched."""
    shutil.copytree(qwen3 if case.shards == 1 else sharded, tmp_path / "source")
    if case.damage is not None:
        case.damage(tmp_path / "source")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)
    monkeypatch.chdir(tmp_path)
    backend = () if "--backend" in case.flags else ("--backend", "numpy")

    code = main(["convert", case.source, case.output, *case.flags, *backend])

    printed = capsys.readouterr()
    assert code == case.code, printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err
    for fragment in case.says:
        assert fragment in printed.err
    assert snapshot(tmp_path) == before


def test_there_are_enough_cases() -> None:
    """The table covers at least sixty different inputs."""
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_a_good_input_passes(qwen3: Path, tmp_path: Path) -> None:
    """The same call with nothing wrong succeeds, so that the cases fail for their own reason."""
    assert main(["convert", str(qwen3), str(tmp_path / "out"), *GOOD]) == 0
