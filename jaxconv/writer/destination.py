"""Where the files of an output go while it is made: a directory, or a folder of an object store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from jaxconv.checkpoint import Array, Extent
from jaxconv.errors import SourceError
from jaxconv.storage import File, read_blocks
from jaxconv.writer.io_errors import reading_source

Progress = Callable[[int], None]


class Sink(Protocol):
    """A file that is being written. It is complete once every byte has been written once; blocks come nearly in order."""

    def write(self, view: memoryview, offset: int) -> None:
        """Writes bytes.

        Args:
            view: The bytes.
            offset: Where they begin in the file.
        """
        ...

    def mapped(self, offset: int, nbytes: int) -> Array | None:
        """Bytes of the file to be written in any order, as memory; None if the file takes them in order only.

        Args:
            offset: Where they begin in the file.
            nbytes: How many.
        """
        ...

    def copy(self, extent: Extent, offset: int, progress: Progress) -> None:
        """Copies bytes of another file.

        Args:
            extent: Where they lie.
            offset: Where they begin in this file.
            progress: Called with the number of bytes copied since the last call.

        Raises:
            SourceError: They cannot be read.
        """
        ...


class Destination(Protocol):
    """What takes the files of an output."""

    @property
    def local(self) -> Path | None:
        """Its directory on this machine, if it is one."""
        ...

    def create(self, name: str, nbytes: int) -> AbstractContextManager[Sink]:
        """A new file, which is complete and durable once the block has ended well, and gone if it has not.

        Args:
            name: Its name.
            nbytes: Its size.
        """
        ...

    def take(self, source: File, name: str, copy_mode: str) -> str | None:
        """Has the file system or the store copy a whole file, so that no byte of it comes here.

        Args:
            source: The file.
            name: Its name in the output.
            copy_mode: "copy", "link" or "reflink".

        Returns:
            What was done: "copy", "link" or "reflink"; None if it cannot, and nothing was done.
        """
        ...

    def write(self, files: Mapping[str, bytes]) -> None:
        """Writes small `files`, relative name -> content, in order."""
        ...

    def size(self, name: str) -> int | None:
        """The size in bytes of the file `name`, or None if it does not exist."""
        ...

    def file(self, name: str) -> File:
        """The written file `name`, to read it back."""
        ...


def copy_blocks(extent: Extent, sink: Sink, offset: int, progress: Progress) -> None:
    """Copies bytes through memory, a few blocks at a time.

    Args:
        extent: Where they lie.
        sink: The file that takes them.
        offset: Where they begin in it.
        progress: Called with the number of bytes copied since the last call.

    Raises:
        SourceError: They cannot be read, or the file ends too early.
    """
    done = 0
    blocks = read_blocks(extent.path, extent.offset, extent.length)
    while True:
        with reading_source(extent.path):
            block = next(blocks, None)
        if not block:
            break
        sink.write(memoryview(block), offset + done)
        done += len(block)
        progress(len(block))
    if done != extent.length:
        end = extent.offset + extent.length
        raise SourceError(f"{extent.path} ended at byte {extent.offset + done} while it was copied; expected {end} bytes.")
