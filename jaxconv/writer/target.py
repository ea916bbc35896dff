"""What may be at OUTPUT: nothing, an empty directory, or with --overwrite a former output."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
from pathlib import Path

from jaxconv.errors import OutputError, UsageError
from jaxconv.writer.options import WriteOptions

PROVENANCE = "jaxconv.json"  # the file that marks a directory as an output of jaxconv
STAGE_PREFIX = ".jaxconv-stage-"
LOST_AND_FOUND = "lost+found"  # of every ext4 file system
MOUNTS = Path("/proc/self/mountinfo")


def check_output(output: str | Path, sources: tuple[Path, ...], options: WriteOptions) -> None:
    """Refuses an output that exists, cannot be written, or overlaps a source.

    Args:
        output: The output as the user named it.
        sources: The directories of the source.
        options: Whether a former output may be replaced.

    Raises:
        OutputError: The output cannot be used.
        UsageError: The output is an empty string.
    """
    if not str(output).strip():
        raise UsageError("OUTPUT is empty. Name a new directory.")
    if "\0" in str(output):
        raise UsageError(f"OUTPUT {str(output)!r} contains a null character. Name a directory without one.")
    output = Path(output).expanduser()
    if importlib.util.find_spec("fcntl") is None:
        raise OutputError(f"output {output} cannot be written on this system: jaxconv writes on Linux and macOS only.")
    target = output.resolve()
    _check_name(output, target)
    _check_apart(output, target, sources)
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


def check_replaceable(target: Path, output: Path, overwrite: bool) -> None:
    """Checks that the existing directory is empty, or may be replaced.

    Args:
        target: The directory.
        output: What the user calls it.
        overwrite: Whether a former output may be replaced.

    Raises:
        OutputError: The directory holds something and `overwrite` is false, or jaxconv did not make it.
    """
    names = entries(target)
    if names and not overwrite:
        raise OutputError(f"output {output} exists and is not empty. Pass --overwrite or name another one.")
    if names and not (target / PROVENANCE).is_file():
        raise OutputError(
            f"output {output} has no {PROVENANCE}, so it was not made by jaxconv and --overwrite leaves it "
            "alone. Remove it yourself or name another one."
        )


def entries(directory: Path) -> list[str]:
    """The names in an output, sorted, without staged directories and what a file system puts there itself.

    Raises:
        OutputError: The directory cannot be listed.
    """
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise OutputError(f"output {directory} cannot be listed: {error.strerror or error}. Make it readable.") from error
    return [name for name in names if not name.startswith(STAGE_PREFIX) and name != LOST_AND_FOUND]


def stages_inside(target: Path) -> bool:
    """Whether an output has to be staged within its own directory, which cannot be renamed.

    That is so for a mount point (a volume of Docker or Kubernetes), and for a directory in one that cannot be written to.
    """
    if not target.is_dir():
        return False
    return is_mount_point(target) or not os.access(target.parent, os.W_OK | os.X_OK)


def is_mount_point(directory: Path) -> bool:
    """Whether the directory is a mount point, a bind mount from the same file system included."""
    if os.path.ismount(directory):
        return True
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except OSError:
        return False
    # Field 5 is the mount point; space, tab, newline and backslash are octal escapes.
    points = (re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), line.split(b" ")[4]) for line in lines)
    return os.fsencode(directory) in points


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
