"""Atomic publication: everything is written beside the target under a temporary name, synced, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jaxconv.distributed import ALONE, Processes
from jaxconv.errors import OutputError, UsageError
from jaxconv.writer.options import WriteOptions

PROVENANCE = "jaxconv.json"  # what marks a folder as an output of ours
VISIBLE_SECONDS = 5  # in which another host of a shared file system has to see a new folder


def check_output(output: str | Path, sources: tuple[Path, ...], options: WriteOptions) -> None:
    """Refuses an output that exists, cannot be written, or overlaps a source.

    Raises:
        OutputError: The output cannot be used.
        UsageError: The output is an empty string.
    """
    if not str(output).strip():
        raise UsageError("OUTPUT is empty. Name a new directory.")
    output = Path(output).expanduser()
    target = output.resolve()
    for source in (path.resolve() for path in sources):
        if target == source:
            raise OutputError(f"output {output} is the source itself; expected another folder. Name a new one.")
        if target.is_relative_to(source):
            raise OutputError(f"output {output} lies inside the source {source}; expected a folder outside it.")
        if source.is_relative_to(target):
            raise OutputError(f"output {output} holds the source {source}; expected a folder apart from it.")
    if os.path.lexists(output):
        if not output.is_dir() or output.is_symlink():
            raise OutputError(f"output {output} exists and is not a directory. Name a new one.")
        if any(output.iterdir()):
            if not options.overwrite:
                raise OutputError(f"output {output} exists and is not empty. Pass --overwrite or name another one.")
            if not (output / PROVENANCE).is_file():
                raise OutputError(
                    f"output {output} has no {PROVENANCE}, so it was not made by jaxconv and --overwrite leaves it "
                    "alone. Remove it yourself or name another one."
                )
    parent = _nearest_parent(target)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"output {output} cannot be made: {parent} is not a folder that can be written to.")


def _nearest_parent(target: Path) -> Path:
    parent = target.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    return parent


@contextlib.contextmanager
def staged_output(output: Path, options: WriteOptions, processes: Processes = ALONE) -> Iterator[Path]:
    """A temporary folder that becomes `output` when the block ends well, and vanishes when it does not.

    The first process makes and publishes it; the others must see it. Folders made for it are removed again on
    failure, once nobody writes any more. A former output is replaced as a whole.
    """
    target = output.resolve()
    made = [parent for parent in target.parents if not parent.exists()] if processes.rank == 0 else []
    stage = _new_stage(target, output, made) if processes.rank == 0 else None
    try:
        stage = target.parent / processes.exchange(stage.name if stage else None)[0]
        _check_seen(stage, processes)
        yield stage
        processes.check()
        if processes.rank == 0:
            _publish(stage, target)
    except BaseException as error:
        failure = _unwritten(output, error) if isinstance(error, OSError) else error
        processes.stop(failure)
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        _remove_empty(made)
        if failure is error:
            raise
        raise failure from error


def _new_stage(target: Path, output: Path, made: list[Path]) -> Path:
    """A temporary folder beside the target."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".jaxconv", dir=target.parent))
    except OSError as error:
        _remove_empty(made)
        raise OutputError(f"output {output} cannot be made: {error.strerror} ({target.parent}).") from error


def _check_seen(stage: Path, processes: Processes) -> None:
    """Raises `OutputError` on every process when there is one that does not see the folder of the first."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while not stage.is_dir() and time.monotonic() < deadline:
        time.sleep(0.1)
    blind = [said for said in processes.exchange(None if stage.is_dir() else [socket.gethostname(), str(stage)]) if said]
    if blind:
        raise OutputError(
            f"host {blind[0][0]} does not see {blind[0][1]}, which process 0 made; expected an output on a file system that "
            "all processes share, under the same path. Nothing was published; name such a folder."
        )


def _unwritten(output: Path, error: OSError) -> OutputError:
    return OutputError(
        f"writing {output} failed: {error.strerror or error}. Nothing was published; "
        "free the space or name another folder, then run the same command."
    )


def _publish(stage: Path, target: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    stage.chmod(0o777 & ~mask)
    _sync_folder(stage)
    former = None
    if target.exists():
        former = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".former", dir=target.parent))
        target.rename(former / target.name)
    try:
        stage.rename(target)
    except OSError:
        if former is not None:
            (former / target.name).rename(target)
            former.rmdir()
        raise
    _sync_folder(target.parent)
    if former is not None:
        shutil.rmtree(former, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
