"""What tells one state of a file from the next."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What changes when a file is replaced, cut, extended or written to.

    Attributes:
        place: Device and inode; empty for an object of a store.
        size: Its size in bytes.
        version: The time of its last change, or what the store has instead.
    """

    place: tuple[int, ...]
    size: int
    version: int | str

    @staticmethod
    def of(status: os.stat_result) -> FileIdentity:
        """The identity of the file that `status` describes."""
        return FileIdentity((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns)
