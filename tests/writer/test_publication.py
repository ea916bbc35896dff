"""The moment at which a staged directory becomes the output."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jaxconv
from jaxconv.errors import JaxconvError, OutputError, UsageError
from jaxconv.writer import publish, rename
from tests.support.conversions import command, convert, digests, names


@pytest.fixture
def former(untied: Path, tmp_path: Path) -> dict[str, str]:
    """A former output at `out`, converted from the same source with other options; its digests."""
    convert(untied, tmp_path / "out", scale=2.0)
    return digests(tmp_path / "out")


@pytest.fixture(params=["exchange", "aside"])
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system that can exchange two directories, and one that cannot."""
    if request.param == "aside":
        monkeypatch.setattr(publish, "exchange", lambda one, other: False)
    return str(request.param)


def test_a_directory_that_appears_during_the_conversion_survives(untied: Path, tmp_path: Path) -> None:
    """Without --overwrite nothing is replaced, even if the output was free when the conversion began."""
    output = tmp_path / "out"

    def appear() -> None:
        output.mkdir()
        (output / "thesis.txt").write_text("x")

    with pytest.raises(OutputError, match=r"out appeared while the conversion ran.*Nothing was published"):
        convert(untied, output, appear)
    assert names(tmp_path) == ["out"] and names(output) == ["thesis.txt"]


def test_a_file_that_appears_during_the_conversion_survives(untied: Path, tmp_path: Path) -> None:
    """The same for a file, with --overwrite too."""
    output = tmp_path / "out"
    with pytest.raises(OutputError, match="appeared while the conversion ran"):
        convert(untied, output, lambda: output.write_text("x"), overwrite=True)
    assert names(tmp_path) == ["out"] and output.read_text() == "x"


def test_an_empty_directory_is_filled(untied: Path, tmp_path: Path) -> None:
    """An empty directory at the output is no obstacle, whenever it appears."""
    (tmp_path / "before").mkdir()
    convert(untied, tmp_path / "before")
    convert(untied, tmp_path / "during", (tmp_path / "during").mkdir)
    assert names(tmp_path) == ["before", "during"]
    assert digests(tmp_path / "before") == digests(tmp_path / "during")


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_of_two_conversions_into_one_output_one_is_refused(untied: Path, tmp_path: Path, flags: list[str]) -> None:
    """The second says so, and the output is that of the first."""
    arguments = command("time.sleep(2)", untied, tmp_path / "out", *flags)
    pipe = subprocess.PIPE
    running = [subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=100)[1] for process in running]
    assert sorted(process.returncode for process in running) == [0, 1], errors
    [error] = [error for error in errors if error]
    assert "another conversion into" in error or "appeared while" in error
    convert(untied, tmp_path / "alone")
    assert digests(tmp_path / "out") == digests(tmp_path / "alone")
    assert names(tmp_path) == ["alone", "out"]


def test_conversions_that_do_not_see_each_other(untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without locks the rename itself refuses the second: the output is the one that was published first."""
    monkeypatch.setattr(publish, "sweep_output", lambda target: [])
    output = tmp_path / "out"
    with pytest.raises(OutputError, match="appeared while the conversion ran"):
        convert(untied, output, lambda: convert(untied, output, scale=2.0))
    convert(untied, tmp_path / "first", scale=2.0)
    assert digests(output) == digests(tmp_path / "first")


def test_overwrite_looks_again(
    untied: Path, tmp_path: Path, former: dict[str, str], mechanism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A former output that somebody replaces by other files during the conversion is not replaced."""
    output = tmp_path / "out"

    def replace() -> None:
        shutil.rmtree(output)
        output.mkdir()
        (output / "thesis.txt").write_text("x")

    with pytest.raises(OutputError, match="not made by jaxconv"):
        convert(untied, output, replace, overwrite=True)
    assert names(tmp_path) == ["out"] and names(output) == ["thesis.txt"]


def test_overwrite_has_no_moment_without_an_output(
    untied: Path, tmp_path: Path, former: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step of the publication one of the two outputs is there, whole."""
    output, states = tmp_path / "out", []

    def watch(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            try:
                return function(*args)
            finally:
                states.append(digests(output))

        return call

    monkeypatch.setattr(os, "rename", watch(os.rename))
    monkeypatch.setattr(publish, "exchange", watch(rename.exchange))
    convert(untied, output, overwrite=True)
    convert(untied, tmp_path / "new")
    assert len(states) >= 2
    assert all(state in (former, digests(tmp_path / "new")) for state in states)
    assert digests(output) == digests(tmp_path / "new") and names(tmp_path) == ["new", "out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError(5, "Input/output error")])
def test_a_former_output_is_brought_back(
    untied: Path, tmp_path: Path, former: dict[str, str], error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the two cannot be exchanged, whatever goes wrong between the two renames brings the former output back."""
    output, rename_ = tmp_path / "out", os.rename

    def fail(source: Path, target: Path) -> None:
        if os.path.basename(source) == "output" and not output.exists():
            raise error
        rename_(source, target)

    monkeypatch.setattr(publish, "exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)):
        convert(untied, output, overwrite=True)
    assert digests(output) == former and names(tmp_path) == ["out"]


def test_a_former_output_that_cannot_be_brought_back_is_kept(
    untied: Path, tmp_path: Path, former: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If its place has been taken it stays in the staged directory, the message says where, and no sweep deletes it."""
    output, rename_ = tmp_path / "out", os.rename

    def take_the_place(source: Path, target: Path) -> None:
        if os.path.basename(source) == "output" and not output.exists():
            output.mkdir()
            (output / "thesis.txt").write_text("x")
        rename_(source, target)

    monkeypatch.setattr(publish, "exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", take_the_place)
    with pytest.raises(OutputError, match="It is kept as"):
        convert(untied, output, overwrite=True)
    [kept] = tmp_path.glob(".jaxconv-stage-*/former")
    assert digests(kept) == former and names(output) == ["thesis.txt"]
    [leftover] = publish.sweep_output(output)
    assert not leftover.removed and digests(kept) == former


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interruption_after_publication_says_so(
    untied: Path, tmp_path: Path, overwrite: bool, mechanism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption that arrives when the output has its name does not say that nothing was published."""
    output = tmp_path / "out"
    if overwrite:
        convert(untied, output, scale=2.0)

    def then_interrupt(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            result = function(*args)
            if result is not False and os.path.basename(args[0]) == "output":
                raise KeyboardInterrupt
            return result

        return call

    monkeypatch.setattr(os, "rename", then_interrupt(os.rename))
    monkeypatch.setattr(publish, "exchange", then_interrupt(publish.exchange))
    with pytest.raises(KeyboardInterrupt) as interruption:
        convert(untied, output, overwrite=overwrite)
    assert interruption.value.__notes__ == [f"{output} was published before and is complete."]
    monkeypatch.undo()
    convert(untied, tmp_path / "new")
    assert digests(output) == digests(tmp_path / "new") and names(tmp_path) == ["new", "out"]


def test_an_interruption_before_publication_says_so(untied: Path, tmp_path: Path) -> None:
    """The note of an earlier interruption says that nothing was published, and nothing is left."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interruption:
        convert(untied, tmp_path / "new" / "out", interrupt)
    assert interruption.value.__notes__ == ["Nothing was published."]
    assert names(tmp_path) == []


@pytest.mark.parametrize("options", [{}, {"copy_mode": "link"}, {"dtype": "float32", "max_shard_size": "60KB"}])
def test_every_file_and_directory_is_synced(
    untied: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, config, tokenizer and template, the directories within, the output, and its new parents."""
    synced, fsync = set(), os.fsync

    def record(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    convert(untied, tmp_path / "new" / "out", **options)
    written = [tmp_path, tmp_path / "new", tmp_path / "new" / "out", *(tmp_path / "new" / "out").rglob("*")]
    assert [path for path in written if path.stat().st_ino not in synced] == []


@pytest.mark.parametrize("length", [238, 244, 255])
@pytest.mark.parametrize("overwrite", [False, True])
def test_long_names(untied: Path, tmp_path: Path, length: int, overwrite: bool) -> None:
    """A name may be as long as the file system allows, in several bytes per character too."""
    output = tmp_path / ("é" * (length // 2) + "x" * (length % 2))
    convert(untied, output)
    if overwrite:
        convert(untied, output, overwrite=True)
    assert names(tmp_path) == [output.name]


@pytest.mark.parametrize(
    ("name", "message"), [("x" * 256, "name of 256 bytes; expected at most 255"), ("a\0b", "contains a null character")]
)
def test_impossible_names_are_refused_before_anything_is_written(
    untied: Path, tmp_path: Path, name: str, message: str
) -> None:
    """A name that the system refuses is an error at once, not after the weights were copied."""

    def never() -> None:
        raise AssertionError("bytes were written")

    with pytest.raises(JaxconvError, match=message):
        convert(untied, tmp_path / name, never)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_output_is_refused(untied: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unset variable of the shell does not mean the current directory."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="OUTPUT is empty"):
        jaxconv.convert(untied, name, token_ids=[5, 6], backend="numpy")
    assert names(tmp_path) == []
