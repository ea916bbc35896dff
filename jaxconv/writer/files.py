"""Writes the files that are not weights, and syncs directories."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from jaxconv.writer.io_errors import writing_output

UNSYNCABLE = (errno.EACCES, errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP)


def write_files(files: Mapping[str, bytes], directory: Path) -> None:
    """Writes and syncs each file, in order.

    Args:
        files: Name, relative to the directory -> content.
        directory: An existing directory.

    Raises:
        OutputError: A file cannot be written; the message names it.
    """
    for name, content in files.items():
        path = directory / name
        with writing_output(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


def sync_tree(directory: Path) -> None:
    """Syncs a directory and all directories in it, so that the names of their files survive a power cut."""
    for path, _, _ in os.walk(directory, topdown=False):
        sync_directory(Path(path))


def sync_directory(path: Path) -> None:
    """Syncs the directory `path`. Does nothing if it cannot be opened, or if the file system cannot sync directories."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in UNSYNCABLE:
            raise


def sync_file(path: Path) -> None:
    """Syncs the file `path`, which somebody else has written."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
