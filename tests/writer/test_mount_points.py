"""Outputs that are mount points, as the volumes of Docker and Kubernetes are."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import jaxconv
from jaxconv.cli import main
from jaxconv.errors import OutputError
from jaxconv.writer import stage as stages
from jaxconv.writer import target as targets
from tests.support.conversions import TOKENS, convert, digests, leave_stage, names, run


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is taken for a mount point and, like one, cannot be renamed or replaced."""
    path, rename = tmp_path / "volume", os.rename
    path.mkdir()

    def refuse(source: Path, target: Path) -> None:
        if path in (Path(source), Path(target)):
            raise OSError(16, "Device or resource busy", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(os.path, "ismount", lambda directory: Path(directory) == path)
    return path


def test_a_volume_is_filled_from_within(untied: Path, tmp_path: Path, volume: Path) -> None:
    """The bytes are those of any other output; nothing is written beside it."""
    (volume / "lost+found").mkdir()
    beside: list[list[str]] = []
    convert(untied, volume, lambda: beside.append(names(tmp_path)))
    convert(untied, tmp_path / "out")
    assert beside == [["volume"]]
    assert digests(volume) == digests(tmp_path / "out")
    assert names(volume) == sorted([*names(tmp_path / "out"), "lost+found"])


def test_a_volume_is_overwritten(untied: Path, tmp_path: Path, volume: Path) -> None:
    """A former output in it is replaced with --overwrite, refused without, and other files are never replaced."""
    convert(untied, volume, copy_mode="link")
    with pytest.raises(OutputError, match="is not empty"):
        convert(untied, volume)
    convert(untied, volume, dtype="float32", overwrite=True)
    convert(untied, tmp_path / "out", dtype="float32")
    assert digests(volume) == digests(tmp_path / "out")
    (volume / "jaxconv.json").unlink()
    with pytest.raises(OutputError, match="not made by jaxconv"):
        convert(untied, volume, overwrite=True)


def test_a_file_that_appears_in_a_volume_survives(untied: Path, volume: Path) -> None:
    """What somebody else writes into it during the conversion is not replaced."""
    with pytest.raises(OutputError, match="is not empty"):
        convert(untied, volume, lambda: (volume / "config.json").write_text("{}"))
    assert names(volume) == ["config.json"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_a_publication_that_fails_is_taken_back(
    untied: Path, volume: Path, overwrite: bool, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the moves fails, the volume is as before: empty, or the former output."""
    if overwrite:
        convert(untied, volume, scale=2.0)
    before, rename = digests(volume), os.rename
    moves = len(before) * 3
    failed = 0
    for last in range(moves):
        count = 0

        def fail(source: Path, target: Path, last: int = last) -> None:
            nonlocal count
            count += 1
            if count == last + 1:
                raise error
            rename(source, target)

        monkeypatch.setattr(os, "rename", fail)
        try:
            convert(untied, volume, overwrite=overwrite)
            break
        except (KeyboardInterrupt, OutputError):
            failed += 1
            assert digests(volume) == before
    assert failed >= 8 or not overwrite
    assert not list(volume.glob(".jaxconv*"))


def test_config_json_is_the_last_entry(untied: Path, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a volume is filled or replaced nothing in it looks like a model that is not whole."""
    rename = os.rename
    convert(untied, volume, scale=2.0)
    states: list[tuple[bool, int]] = []

    def watch(source: Path, target: Path) -> None:
        states.append(((volume / "config.json").exists(), len(targets.entries(volume))))
        rename(source, target)

    monkeypatch.setattr(os, "rename", watch)
    convert(untied, volume, overwrite=True)
    whole = len(targets.entries(volume))
    assert len(states) == 2 * whole
    assert [count for present, count in states if present] == [whole]


@pytest.mark.parametrize("by", ["clean", "the next run"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_killed_publication_left_is_taken_back(
    untied: Path, volume: Path, overwrite: bool, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any of its moves: `clean` and the next run find out what to bring back."""
    if overwrite:
        convert(untied, volume, scale=2.0)
    before, rename = digests(volume), os.rename
    for last in (0, 3, len(before) + 1, len(before) + 4):

        class Killed(BaseException):
            pass

        count = 0

        def die(source: Path, target: Path, last: int = last, killed: type[BaseException] = Killed) -> None:
            nonlocal count
            if count >= last:
                raise killed
            count += 1
            rename(source, target)

        def leave(stage: stages.Stage) -> None:
            os.close(stage.lock or 0)  # as the death of the process does

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", die)
            patch.setattr(stages.Stage, "remove", leave)
            with pytest.raises(Killed):
                convert(untied, volume, overwrite=overwrite)
        assert list(volume.glob(".jaxconv-stage-*"))
        if by == "clean":
            assert main(["clean", str(volume)]) == 0
        elif overwrite:
            with pytest.raises(OutputError, match=r"is not empty. Pass --overwrite"):
                convert(untied, volume)
        else:
            jaxconv.convert(untied, volume, token_ids=[5, 6], backend="numpy", dry_run=True)
        assert digests(volume) == before and not list(volume.glob(".jaxconv*"))


def test_leftovers_in_a_volume_are_no_content(untied: Path, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run leaves its stage in the volume; the next one finds the volume empty, and removes it."""
    stage = leave_stage(untied, volume.parent / "out")
    shutil.move(stage, volume / f"{targets.STAGE_PREFIX}{stages.digest('volume')}-0")
    convert(untied, volume)
    assert not list(volume.glob(".jaxconv*")) and (volume / "config.json").is_file()


def test_a_directory_in_one_that_cannot_be_written_to(untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that exists and is the user's, in a directory that is not: it is filled from within, too."""
    (tmp_path / "out").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and access(path, mode))
    beside: list[list[str]] = []
    convert(untied, tmp_path / "out", lambda: beside.append(names(tmp_path)))
    assert beside == [["out"]] and (tmp_path / "out" / "config.json").is_file()


def test_a_volume_that_cannot_be_written_to(untied: Path, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before the source is read."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != volume and access(path, mode))
    with pytest.raises(OutputError, match=r"volume is not a directory that you can write to"):
        convert(untied, volume)


def _can_mount() -> bool:
    return shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="needs the right to mount")
@pytest.mark.parametrize("mount", ["mount -t tmpfs tmpfs VOLUME", "mount --bind STORE VOLUME"])
def test_real_mounts(untied: Path, tmp_path: Path, mount: str) -> None:
    """A tmpfs, and a bind mount from the same file system, whose device number does not tell."""
    volume, store = tmp_path / "a volume", tmp_path / "store"
    volume.mkdir()
    store.mkdir()
    mount = mount.replace("VOLUME", f"'{volume}'").replace("STORE", str(store))
    convert_it = " ".join(
        [sys.executable, "-m jaxconv convert", str(untied), f"'{volume}'", *(f"'{flag}'" for flag in TOKENS)]
    )
    script = f"set -e; {mount}; {convert_it}; {convert_it} --overwrite --dtype float32; cp -r '{volume}' '{tmp_path}/copy'"
    converted = run(["unshare", "-m", "sh", "-c", script])
    assert converted.returncode == 0, converted.stderr
    convert(untied, tmp_path / "out", dtype="float32")
    assert digests(tmp_path / "copy") == digests(tmp_path / "out")
    assert names(tmp_path / "copy") == names(tmp_path / "out")
    assert names(tmp_path) == ["a volume", "copy", "out", "store"]


def test_kill_in_a_volume_is_swept(untied: Path, volume: Path) -> None:
    """A SIGKILL while bytes are written into a volume: the next run starts clean."""
    code = (
        "import contextlib, os, signal, sys; os.path.ismount = lambda path: str(path) == sys.argv[2]; "
        "import jaxconv.cli.convert as command; from jaxconv.cli import main; "
        "kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        "command.progress_bar = lambda quiet: contextlib.nullcontext(kill); "
        "main(['convert', *sys.argv[1:]])"
    )
    killed = run([sys.executable, "-c", code, str(untied), str(volume), *TOKENS])
    assert killed.returncode == -signal.SIGKILL
    [stage] = names(volume)
    assert stage.startswith(targets.STAGE_PREFIX)
    convert(untied, volume)
    assert stage not in names(volume)
