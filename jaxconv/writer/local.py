"""An output on a file system: bytes that lie in a file there go through the kernel."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxconv.checkpoint import Array, Extent
from jaxconv.errors import SourceError
from jaxconv.storage import File
from jaxconv.writer.destination import Progress, Sink, copy_blocks
from jaxconv.writer.files import sync_file, write_files
from jaxconv.writer.io_errors import reading_source

CHUNK = 1 << 26  # bytes that a kernel copy moves between two reports of progress
BUFFER = 1 << 20  # bytes that are copied at once where the kernel cannot
FICLONE = 0x40049409  # linux/fs.h


@dataclass(frozen=True, slots=True)
class LocalDirectory:
    """A directory that takes the files of an output."""

    directory: Path

    @property
    def local(self) -> Path:
        """The directory."""
        return self.directory

    @contextlib.contextmanager
    def create(self, name: str, nbytes: int) -> Iterator[Sink]:
        """A new file `name`, synced at the end. It grows with what is written, so `nbytes` is not needed."""
        with (self.directory / name).open("x+b", buffering=0) as file:
            yield _LocalFile(file.fileno())
            os.fsync(file.fileno())

    def take(self, source: File, name: str, copy_mode: str) -> str | None:
        """Links or clones `source` as `name` if `copy_mode` says so and the file system can."""
        share = {"link": _link, "reflink": _reflink}.get(copy_mode)
        target = self.directory / name
        if share is None or not isinstance(source, Path) or not share(source, target):
            return None
        with reading_source(source):
            sync_file(target)  # it may have been written a moment ago
        return copy_mode

    def write(self, files: Mapping[str, bytes]) -> None:
        """Writes and syncs `files`."""
        write_files(files, self.directory)

    def size(self, name: str) -> int | None:
        """The size of the file `name`; None if it does not exist."""
        path = self.directory / name
        return path.stat().st_size if path.is_file() else None

    def file(self, name: str) -> Path:
        """The path of the file `name`."""
        return self.directory / name


@dataclass(frozen=True, slots=True)
class _LocalFile:
    handle: int

    def write(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            done += os.pwrite(self.handle, view[done:], offset + done)
        _start_writeback(self.handle, offset, done)

    def mapped(self, offset: int, nbytes: int) -> Array | None:
        """Memory over the file. The disk's space is taken first: a full disk would end the process at a later store."""
        import numpy as np

        if not hasattr(os, "posix_fallocate"):
            return None
        os.posix_fallocate(self.handle, offset, nbytes)
        begin = offset % mmap.ALLOCATIONGRANULARITY
        memory = mmap.mmap(self.handle, begin + nbytes, offset=offset - begin)
        return np.frombuffer(memory, np.uint8, nbytes, begin)

    def copy(self, extent: Extent, offset: int, progress: Progress) -> None:
        if not isinstance(extent.path, Path):
            return copy_blocks(extent, self, offset, progress)
        with reading_source(extent.path):
            source = os.open(extent.path, os.O_RDONLY)
        try:
            self._copy(extent.path, source, extent, offset, progress)
        finally:
            os.close(source)

    def _copy(self, path: Path, source: int, extent: Extent, begin: int, progress: Progress) -> None:
        offset, end, in_kernel = extent.offset, extent.offset + extent.length, hasattr(os, "copy_file_range")
        while offset < end:
            place, count = begin + offset - extent.offset, min(CHUNK, end - offset)
            copied = _copy_in_kernel(source, self.handle, count, offset, place) if in_kernel else None
            if copied is None:
                in_kernel = False
                copied = self._copy_block(path, source, min(count, BUFFER), offset, place)
            if copied == 0:
                raise SourceError(f"{path} ended at byte {offset} while it was copied; expected {end} bytes.")
            offset += copied
            progress(copied)

    def _copy_block(self, path: Path, source: int, count: int, offset: int, place: int) -> int:
        with reading_source(path):
            block = os.pread(source, count, offset)
        self.write(memoryview(block), place)
        return len(block)


def _start_writeback(target: int, offset: int, length: int) -> None:
    """Lets the kernel begin to write new pages to the disk, so that the sync at the end has little left to do."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(target, offset, length, os.POSIX_FADV_DONTNEED)  # dirty pages are written, not dropped


def _copy_in_kernel(source: int, target: int, count: int, offset: int, place: int) -> int | None:
    """Copies bytes without reading them here. None where it fails: an ordinary copy then shows which side is to blame."""
    try:
        copied = os.copy_file_range(source, target, count, offset, place)
    except OSError:
        return None
    _start_writeback(target, place, copied)
    return copied


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:
        return False  # copying works, or says what is wrong
    return True


def _reflink(source: Path, target: Path) -> bool:
    import fcntl

    with reading_source(source):
        reader = source.open("rb")
    with reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
            return True
        except OSError:
            pass
    target.unlink()
    return False
