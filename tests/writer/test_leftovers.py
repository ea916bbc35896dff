"""What a killed conversion leaves, and who removes it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jaxconv.cli import main
from jaxconv.errors import OutputError
from jaxconv.writer import stage as stages
from jaxconv.writer import sweep
from tests.support.conversions import command, convert, digests, leave_stage, names, run


def edit_owner(stage: Path, **changes: object) -> None:
    """Changes the record of a stage's owner."""
    record = json.loads((stage / "owner.json").read_text())
    (stage / "owner.json").write_text(json.dumps(record | changes))


def test_the_next_run_removes_what_a_killed_one_left(untied: Path, tmp_path: Path) -> None:
    """Stages of this output go, those of another one stay."""
    leave_stage(untied, tmp_path / "out")
    other = leave_stage(untied, tmp_path / "other")
    convert(untied, tmp_path / "out")
    assert names(tmp_path) == sorted([other.name, "out"])


def test_clean_removes_them(untied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`jaxconv clean` of the parent, or of the output itself, whether or not it exists."""
    for directory in (tmp_path, tmp_path / "out"):
        stage = leave_stage(untied, tmp_path / "out")
        nbytes = sum(path.stat().st_size for path in stage.rglob("*") if path.is_file())
        assert nbytes > 1000
        assert main(["clean", str(directory), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"removed": [{"path": str(stage), "bytes": nbytes}], "kept": []}
        assert names(tmp_path) == []
    assert main(["clean", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    assert main(["clean", str(tmp_path / "a" / "b")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_live_conversion_is_left_alone(untied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither `clean` nor another run into the same output touches the stage of a process that lives."""
    output = tmp_path / "out"
    running = subprocess.Popen(command("time.sleep(100)", untied, output), stderr=subprocess.PIPE)
    try:
        while not list(tmp_path.glob(".jaxconv-stage-*/output/*.safetensors")):
            assert running.poll() is None
            time.sleep(0.05)
        [stage] = tmp_path.glob(".jaxconv-stage-*")
        assert main(["clean", str(tmp_path), "--json"]) == 0
        reason = f"process {running.pid} on {socket.gethostname()} is using it"
        assert json.loads(capsys.readouterr().out) == {"removed": [], "kept": [{"path": str(stage), "reason": reason}]}
        with pytest.raises(OutputError, match=rf"another conversion into .*out is running \({reason}"):
            convert(untied, output)
        assert list(stage.glob("output/*.safetensors"))
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 128 + signal.SIGTERM
        assert names(tmp_path) == []
    finally:
        running.kill()


def test_the_stage_of_another_host(untied: Path, tmp_path: Path) -> None:
    """It is removed if its lock can be taken and nothing in it has changed for an hour."""
    stage = leave_stage(untied, tmp_path / "out")
    edit_owner(stage, host="elsewhere")
    convert(untied, tmp_path / "out")
    assert stage.exists()
    [leftover] = sweep.sweep_directory(tmp_path)
    assert not leftover.removed and "on elsewhere changed it 0 minutes ago" in leftover.reason
    hour_ago = time.time() - sweep.OTHER_HOST_SECONDS - 1
    for path in (stage, *stage.rglob("*")):
        os.utime(path, (hour_ago, hour_ago))
    [leftover] = sweep.sweep_directory(tmp_path)
    assert leftover.removed and names(tmp_path) == ["out"]


def test_without_locks_nothing_is_removed(untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks conversions work, and leftovers stay with a reason."""
    stage = leave_stage(untied, tmp_path / "out")
    monkeypatch.setattr(stages, "take_lock", lambda handle: None)
    monkeypatch.setattr(sweep, "take_lock", lambda handle: None)
    convert(untied, tmp_path / "out")
    [leftover] = sweep.sweep_directory(tmp_path)
    assert not leftover.removed and "no locks" in leftover.reason
    assert names(tmp_path) == sorted([stage.name, "out"])


@pytest.mark.parametrize("owner", ["", "{", "[1]", '{"output": "../../x"}', '{"output": "other"}'])
def test_damaged_records(untied: Path, tmp_path: Path, owner: str) -> None:
    """A run that was killed while it wrote its record, or a record that is wrong: it names no target, and is removed."""
    stage = leave_stage(untied, tmp_path / "out")
    (tmp_path / "x").mkdir()
    (stage / "owner.json").write_text(owner)
    (stage / "former").mkdir()
    convert(untied, tmp_path / "out")
    assert names(tmp_path) == ["out", "x"]


def test_stages_without_a_record(untied: Path, tmp_path: Path) -> None:
    """An empty one, of a run that was killed at its start or end, is removed; one with content is not of our making."""
    stage = leave_stage(untied, tmp_path / "out")
    (stage / "owner.json").unlink()
    empty = stage.with_name(stage.name[:-1])
    empty.mkdir()
    convert(untied, tmp_path / "out")
    assert names(tmp_path) == sorted([stage.name, "out"])
    [leftover] = sweep.sweep_directory(tmp_path)
    assert not leftover.removed and "it has no owner.json" in leftover.reason


def test_a_deletion_that_is_cut_short(untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any point of its own clean-up, a stage still can be removed by the next run."""
    real = {name: getattr(os, name) for name in ("unlink", "rmdir")}
    for last in range(40):
        count = 0

        def call(name: str, *args: Any, last: int = last, **more: Any) -> None:
            nonlocal count
            count += 1
            if count > last:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real[name](*args, **more)

        def fail(last: int = last) -> None:
            for name in real:
                monkeypatch.setattr(os, name, partial(call, name))
            raise MemoryError

        with pytest.raises(MemoryError):
            convert(untied, tmp_path / "out", fail)
        monkeypatch.undo()
        left = [leftover for leftover in sweep.sweep_output(tmp_path / "out") if not leftover.removed]
        assert left == [] and names(tmp_path) == []


def test_a_link_in_the_place_of_a_stage_is_left_alone(untied: Path, tmp_path: Path) -> None:
    """A symbolic link with the name of a stage is neither followed nor removed."""
    stage = leave_stage(untied, tmp_path / "out")
    shutil.move(stage, tmp_path / "mine")
    stage.symlink_to(tmp_path / "mine")
    convert(untied, tmp_path / "out")
    assert names(tmp_path) == sorted(["mine", stage.name, "out"]) and (tmp_path / "mine" / "owner.json").exists()


@pytest.mark.parametrize("by", ["clean", "the next run"])
def test_a_former_output_is_brought_back(untied: Path, tmp_path: Path, by: str) -> None:
    """Killed between moving the former output aside and publishing the new one: the former one comes back."""
    output = tmp_path / "out"
    convert(untied, output, scale=2.0)
    former = digests(output)
    code = (
        "import os, signal, sys; from jaxconv.cli import main; from jaxconv.writer import publish; rename = os.rename; "
        "publish.exchange = lambda *_: False\n"
        "def kill(one, other):\n    rename(one, other)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.rename = kill; main(sys.argv[1:])"
    )
    arguments = [sys.executable, "-c", code, "convert", str(untied), str(output), "--token-ids", "[5,6]", "--overwrite"]
    killed = run([*arguments, "--backend", "numpy"])
    assert killed.returncode == -signal.SIGKILL and not output.exists()
    if by == "clean":
        assert main(["clean", str(output)]) == 0
    else:
        with pytest.raises(OutputError, match=r"is not empty. Pass --overwrite"):
            convert(untied, output)
    assert digests(output) == former and names(tmp_path) == ["out"]


def test_a_stage_that_is_swept_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that comes between the creation of a stage and its lock takes that stage; the conversion takes another."""
    lock_new, swept = stages._lock_new, []

    def too_late(path: Path) -> int | None:
        if not swept:
            swept.append(sweep.sweep_stage(path.parent))
        return lock_new(path)

    monkeypatch.setattr(stages, "_lock_new", too_late)
    stage = stages.create_stage(tmp_path / "out", tmp_path / "out")
    assert swept[0].removed and names(tmp_path) == [stage.directory.name] and stage.output.is_dir()
    assert not sweep.sweep_stage(stage.directory).removed
    stage.remove()
    assert names(tmp_path) == []


def test_a_stage_that_cannot_be_prepared_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when the record of the owner is written: nothing is left, no lock is held."""
    handles = names(Path("/proc/self/fd"))

    def fail(stage: stages.Stage) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stages, "_write_owner", fail)
    with pytest.raises(OutputError, match=r"out cannot be staged in .*: No space left on device.*Free some space"):
        stages.create_stage(tmp_path / "out", tmp_path / "out")
    assert names(tmp_path) == [] and names(Path("/proc/self/fd")) == handles
