"""Refuses an output that cannot be used, before anything is read or written."""

from __future__ import annotations

import errno
import importlib.util
import os
from pathlib import Path

from jaxconv.errors import OutputError, UsageError
from jaxconv.writer.options import WriteOptions
from jaxconv.writer.sweep import bring_back
from jaxconv.writer.target import check_replaceable, stages_inside


def check_directory(output: str | Path, sources: tuple[Path, ...], options: WriteOptions) -> None:
    """Refuses an output that exists, cannot be written, or overlaps a source.

    Args:
        output: The output as the user named it.
        sources: The directories of the source.
        options: Whether a former output may be replaced.

    Raises:
        OutputError: The output cannot be used.
        UsageError: The output is no name of a file.
    """
    if "\0" in str(output):
        raise UsageError(f"OUTPUT {str(output)!r} contains a null character. Name a directory without one.")
    try:
        os.fsencode(output)
    except UnicodeEncodeError:
        raise UsageError(f"OUTPUT {str(output)!r} cannot be the name of a file here. Name another directory.") from None
    output = Path(output).expanduser()
    if importlib.util.find_spec("fcntl") is None:
        raise OutputError(f"output {output} cannot be written on this system: jaxconv writes on Linux and macOS only.")
    target = output.resolve()
    _check_name(output, target)
    _check_apart(output, target, sources)
    bring_back(target)
    if os.path.lexists(output):
        if not output.is_dir() or output.is_symlink():
            raise OutputError(f"output {output} exists and is not a directory. Name a new one.")
        check_replaceable(target, output, options.overwrite)
    parent = _nearest_existing(target if stages_inside(target) else target.parent)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"output {output} cannot be created: {parent} is not a directory that you can write to.")


def _check_apart(output: Path, target: Path, sources: tuple[Path, ...]) -> None:
    for source in (path.resolve() for path in sources):
        if target == source:
            raise OutputError(f"output {output} is the source itself. Name another directory.")
        if target.is_relative_to(source):
            raise OutputError(f"output {output} lies inside the source {source}. Name a directory outside it.")
        if source.is_relative_to(target):
            raise OutputError(f"output {output} contains the source {source}. Name a directory apart from it.")


def _nearest_existing(path: Path) -> Path:
    while not os.path.lexists(path):
        path = path.parent
    return path


def _check_name(output: Path, target: Path) -> None:
    """Raises `OutputError` for a path that the file system cannot hold, before gigabytes are written."""
    try:
        os.lstat(target)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            limit = os.pathconf(_nearest_existing(target.parent), "PC_NAME_MAX")
            raise OutputError(
                f"output {output} has a name of {len(os.fsencode(target.name))} bytes; expected at most {limit}, and a "
                "path that the system accepts. Name a shorter one."
            ) from None
