"""What is at OUTPUT: its entries, whether they may be replaced, and whether it is a mount point."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jaxconv.errors import OutputError

PROVENANCE = "jaxconv.json"  # the file that marks a directory as an output of jaxconv
STAGE_PREFIX = ".jaxconv-stage-"
LOST_AND_FOUND = "lost+found"  # of every ext4 file system
MOUNTS = Path("/proc/self/mountinfo")


class OutputExists(OutputError):
    """The output is there already, and was not to be replaced."""


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
        raise OutputExists(f"output {output} exists and is not empty. Pass --overwrite or name another one.")
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
    """Whether the output `target` has to be staged within its own directory, which cannot be renamed.

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
