"""Publishes an output: everything is staged under a hidden name, synced, and takes the target's name in one step.

Without `overwrite` that step is a plain rename, which the system refuses if something has appeared at the target. With it
the former output and the new one are exchanged, so that one of them is there at every moment; where the system cannot
exchange, the former one is moved aside and brought back if anything goes wrong. A mount point keeps its directory: there the
entries are moved one by one, `config.json` last, so that nothing that looks like a model is incomplete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxconv.distributed import ALONE, Processes
from jaxconv.errors import OutputError, SourceError
from jaxconv.writer.files import sync_directory, sync_tree
from jaxconv.writer.io_errors import output_error
from jaxconv.writer.local import LocalDirectory
from jaxconv.writer.options import WriteOptions
from jaxconv.writer.rename import exchange
from jaxconv.writer.stage import Stage, create_stage, write_names
from jaxconv.writer.sweep import sweep_output
from jaxconv.writer.target import check_replaceable, entries

VISIBLE_SECONDS = 5  # within which another host of a shared file system must see a new directory
CONFIG = "config.json"  # what makes a model of a directory
OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


@contextlib.contextmanager
def staged_directory(output: Path, options: WriteOptions, processes: Processes = ALONE) -> Iterator[LocalDirectory]:
    """A staged directory that becomes `output` if the block ends well, and is removed if it does not.

    The first process creates and publishes it; the others must see it. Parents of the output that are missing are created,
    and removed again after a failure, once no process writes any more.

    Args:
        output: The output as the user named it.
        options: Whether a former output is replaced.
        processes: The processes of the conversion.

    Yields:
        The directory to write into.

    Raises:
        OutputError: The output cannot be written, or something has appeared there.
        SourceError: A file of the source could not be read within the block.
    """
    target = output.resolve()
    new_parents = [parent for parent in target.parents if not parent.exists()] if processes.rank == 0 else []
    stage = _open_stage(target, output, new_parents) if processes.rank == 0 else None
    path = stage.output if stage is not None else target
    try:
        relative = processes.exchange(str(path.relative_to(target.parent)))[0]
        path = target.parent / relative
        _check_visible(path, processes)
        processes.watch(path.parent)
        yield LocalDirectory(path)
        processes.check()
        if stage is not None:
            _publish(stage, output, options.overwrite)
    except BaseException as error:
        published = stage is not None and stage.is_published
        failure = _explain(error, output, (target, path.parent), published)
        try:
            processes.stop(failure)
        finally:
            if stage is not None:
                _abandon(stage, new_parents)
        if failure is error:
            raise
        raise failure from error
    if stage is not None:
        _finish(stage, output, new_parents)


def _open_stage(target: Path, output: Path, new_parents: Sequence[Path]) -> Stage:
    """Removes what killed conversions into this output left, and stages a new one."""
    for leftover in sweep_output(target):
        if leftover.in_use:
            raise OutputError(
                f"another conversion into {output} is running ({leftover.reason}: {leftover.path}). "
                "Wait until it is done, or name another output."
            )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return create_stage(target, output)
    except OSError as error:
        _remove_empty(new_parents)
        raise output_error(f"output {output} cannot be created", error) from error
    except BaseException:
        _remove_empty(new_parents)
        raise


def _check_visible(path: Path, processes: Processes) -> None:
    """Raises `OutputError` on every process if one of them does not see the directory of the first."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while not path.is_dir() and time.monotonic() < deadline:
        time.sleep(0.1)
    answers = processes.exchange(None if path.is_dir() else [socket.gethostname(), str(path)])
    for answer in answers:
        if answer is not None:
            raise OutputError(
                f"host {answer[0]} does not see {answer[1]}, which process 0 created. Nothing was published. Name an output "
                "on a file system that all processes share, under the same path."
            )


def _explain(error: BaseException, output: Path, places: Sequence[Path], published: bool) -> BaseException:
    """The error to raise: an OSError names its file and side, an interruption says whether the output was published.

    Args:
        error: What was raised.
        output: The output as the user named it.
        places: The directories of the output's side.
        published: Whether the output was published before.
    """
    if not isinstance(error, Exception):
        error.add_note(f"{output} was published before and is complete." if published else "Nothing was published.")
        return error
    if not isinstance(error, OSError):
        return error
    reason = error.strerror or str(error)
    if published:
        return OutputError(f"{output} was published and is complete, but a later step failed: {reason}.")
    name = error.filename
    if isinstance(name, str) and not any(Path(name).is_relative_to(place) for place in places):
        return SourceError(
            f"reading {name} failed: {reason}. Nothing was published. "
            "Make it a readable file, then run the same command again."
        )
    return output_error(f"writing {output} failed", error)


def _publish(stage: Stage, output: Path, overwrite: bool) -> None:
    """Makes the staged directory the output. Raises `OutputError` if something else has appeared there."""
    sync_tree(stage.output)
    if stage.inside:
        _move_entries(stage, output, overwrite)
    else:
        _rename(stage, output, overwrite)


def _rename(stage: Stage, output: Path, overwrite: bool) -> None:
    try:
        os.rename(stage.output, stage.target)
        return
    except OSError as error:
        if error.errno not in OCCUPIED:
            raise
    if not overwrite or not stage.target.is_dir() or stage.target.is_symlink():
        raise OutputError(
            f"output {output} appeared while the conversion ran, and was left as it is. Nothing was published. "
            "Name another output."
        )
    check_replaceable(stage.target, output, overwrite)
    if not exchange(stage.output, stage.target):
        os.rename(stage.target, stage.former)
        os.rename(stage.output, stage.target)


def _move_entries(stage: Stage, output: Path, overwrite: bool) -> None:
    """Moves the entries into the target, which is a mount point; those of a former output are moved aside first."""
    check_replaceable(stage.target, output, overwrite)
    names = sorted(os.listdir(stage.output), key=lambda name: (name == CONFIG, name))
    write_names(stage, names)
    stage.former.mkdir()
    for name in sorted(entries(stage.target), key=lambda name: (name != CONFIG, name)):
        os.rename(stage.target / name, stage.former / name)
    for name in names:
        if os.path.lexists(stage.target / name):
            raise OutputError(f"{name} appeared in output {output} while the conversion ran. Nothing was published.")
        os.rename(stage.output / name, stage.target / name)
    sync_directory(stage.target)
    stage.output.rmdir()  # from here on it is published


def _finish(stage: Stage, output: Path, new_parents: Sequence[Path]) -> None:
    """Syncs the directories in which new names have appeared, and removes what is left of the stage."""
    try:
        for directory in dict.fromkeys((stage.target.parent, *(parent.parent for parent in new_parents))):
            sync_directory(directory)
        stage.remove()
    except BaseException as error:
        failure = _explain(error, output, (), published=True)
        if failure is error:
            raise
        raise failure from error


def _abandon(stage: Stage, new_parents: Sequence[Path]) -> None:
    """Removes what was staged, unless a former output cannot be brought back from it."""
    try:
        stage.remove()
    except OSError as error:
        raise OutputError(
            f"the former output cannot be brought back to {stage.target}: {error.strerror or error}. It is kept as "
            f"{stage.former}; move it back yourself."
        ) from error
    _remove_empty(new_parents)


def _remove_empty(directories: Sequence[Path]) -> None:
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()
