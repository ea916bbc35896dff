"""Writes one planned file: bytes that lie in a source file go through the kernel, the rest tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path

from jaxconv.checkpoint import Array, Extent, TensorRef
from jaxconv.errors import RefusedError, SourceError
from jaxconv.safetensors_header import header_bytes
from jaxconv.writer.files import sync_file
from jaxconv.writer.io_errors import reading_source, writing_output
from jaxconv.writer.shards import OutputFile
from jaxconv.writer.source_files import check_unchanged

CHUNK = 1 << 26  # bytes that a kernel copy moves between two reports of progress
BUFFER = 1 << 20  # bytes that are copied at once where the kernel cannot
BLOCK = 1 << 22  # bytes of a transposed matrix that are put in order at once
TILE = (512, 64)  # rows and columns that are put in order at once: 64 KB of two bytes each, which fit in a cache
READ_AHEAD = 1 << 29  # bytes that may be held while the next tensor is read
THREADS = min(4, os.cpu_count() or 1)
FICLONE = 0x40049409  # linux/fs.h

Progress = Callable[[int], None]


def write_file(plan: OutputFile, directory: Path, copy_mode: str, progress: Progress) -> str:
    """Writes one output file and syncs it.

    Args:
        plan: The file.
        directory: Where it is created.
        copy_mode: "copy", "link" or "reflink"; the latter two fall back to copying where the file system refuses.
        progress: Called with the number of bytes written since the last call.

    Returns:
        What was done: "link", "reflink", "copy" or "write".

    Raises:
        OutputError: The file cannot be written.
        RefusedError: A value does not fit the dtype that the tensors are cast to.
        SourceError: A source file cannot be read, or has changed since its header was read.
    """
    check_unchanged(plan.sources)
    try:
        with writing_output(plan.name):
            how = _write_file(plan, directory / plan.name, copy_mode, progress)
    except (SourceError, RefusedError):
        check_unchanged(plan.sources)  # a change is the better explanation
        raise
    check_unchanged(plan.sources)
    return how


def _write_file(plan: OutputFile, target: Path, copy_mode: str, progress: Progress) -> str:
    share = {"link": _link, "reflink": _reflink}.get(copy_mode)
    if share is not None and plan.verbatim is not None and share(plan.verbatim, target):
        with reading_source(plan.verbatim):
            sync_file(target)  # it may have been written a moment ago
        progress(plan.nbytes)
        return copy_mode
    with target.open("xb", buffering=0) as file:
        if plan.verbatim is not None:
            with reading_source(plan.verbatim):
                size = plan.verbatim.stat().st_size
            _copy(Extent(plan.verbatim, 0, size), file.fileno(), 0, progress)
        else:
            layout = {ref.name: (ref.dtype, ref.shape, ref.nbytes) for ref in plan.tensors}
            header = header_bytes(layout, plan.metadata)
            _write_all(file.fileno(), memoryview(header), 0)
            _write_pieces(_pieces(plan.tensors), file.fileno(), len(header), progress)
        os.fsync(file.fileno())
    return "copy" if plan.verbatim is not None else "write"


def _pieces(tensors: tuple[TensorRef, ...]) -> Iterator[Extent | TensorRef]:
    """The tensors in order, neighbouring extents of one file joined into one."""
    pending: Extent | None = None
    for ref in tensors:
        extent = ref.extent
        if extent and pending and extent.path == pending.path and extent.offset == pending.offset + pending.length:
            pending = Extent(pending.path, pending.offset, pending.length + extent.length)
            continue
        if pending:
            yield pending
        pending = extent
        if extent is None:
            yield ref
    if pending:
        yield pending


def _write_pieces(pieces: Iterable[Extent | TensorRef], target: int, offset: int, progress: Progress) -> None:
    """Copies and writes the pieces in order from an offset on; the next tensor is read meanwhile if both are small."""
    with ThreadPoolExecutor(1) as reader:
        ahead: Future[Array] | None = None
        for piece, following in pairwise(chain(pieces, [None])):
            array = None  # the previous one is released before another is read
            if isinstance(piece, TensorRef):
                array = _read(piece) if ahead is None else ahead.result()
            room = READ_AHEAD - (0 if array is None else _footprint(array))
            # Reading may take twice the tensor: decompressed, and in its place.
            fits = isinstance(following, TensorRef) and 2 * following.nbytes <= room
            ahead = reader.submit(_read, following) if fits and isinstance(following, TensorRef) else None
            if isinstance(piece, Extent):
                offset = _copy(piece, target, offset, progress)
            elif piece is not None and array is not None:
                offset = _write_tensor(piece, array, target, offset, progress)


def _read(ref: TensorRef) -> Array:
    with reading_source(f"tensor {ref.name}"):
        return ref.read()


def _footprint(array: Array) -> int:
    """Bytes that the array keeps in memory: those of the array that it is a view of."""
    import numpy as np

    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.nbytes


def _write_tensor(ref: TensorRef, array: Array, target: int, offset: int, progress: Progress) -> int:
    """Writes the tensor's array at an offset of the target. Returns the offset where it ends."""
    import numpy as np

    if array.nbytes != ref.nbytes:
        raise SourceError(f"tensor {ref.name} has {array.nbytes} bytes of data; expected {ref.nbytes} ({ref.dtype}).")
    if array.ndim == 2 and not array.flags.c_contiguous:
        _write_strided(array, target, offset, progress)
    else:
        _write_all(target, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, offset)
        progress(array.nbytes)
    return offset + array.nbytes


def _write_strided(array: Array, target: int, offset: int, progress: Progress) -> None:
    """Writes a transposed matrix without a second copy of it.

    A few threads put blocks of rows in order, tile by tile, and write each block to its place in the file.
    """
    import numpy as np

    stride = array.shape[1] * array.itemsize
    height = max(1, BLOCK // max(1, stride))
    bits = array.view(f"u{array.itemsize}")  # NumPy copies dtypes that are not its own slowly, and holding the GIL

    def write(first: int) -> int:
        block = bits[first : first + height]
        ordered = np.empty(block.shape, block.dtype)
        for row in range(0, block.shape[0], TILE[0]):
            for column in range(0, block.shape[1], TILE[1]):
                tile = slice(row, row + TILE[0]), slice(column, column + TILE[1])
                ordered[tile] = block[tile]
        _write_all(target, ordered.reshape(-1).view(np.uint8).data, offset + first * stride)
        return ordered.nbytes

    with ThreadPoolExecutor(THREADS) as pool:
        for done in pool.map(write, range(0, array.shape[0], height)):
            progress(done)


def _write_all(target: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        done += os.pwrite(target, view[done:], offset + done)
    _start_writeback(target, offset, done)


def _start_writeback(target: int, offset: int, length: int) -> None:
    """Lets the kernel begin to write new pages to the disk, so that the sync at the end has little left to do."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(target, offset, length, os.POSIX_FADV_DONTNEED)  # dirty pages are written, not dropped


def _copy(extent: Extent, target: int, begin: int, progress: Progress) -> int:
    """Copies the extent to an offset of the target. Returns the offset where it ends."""
    with reading_source(extent.path):
        source = os.open(extent.path, os.O_RDONLY)
    try:
        offset, end, in_kernel = extent.offset, extent.offset + extent.length, hasattr(os, "copy_file_range")
        while offset < end:
            place, count = begin + offset - extent.offset, min(CHUNK, end - offset)
            copied = _copy_in_kernel(source, target, count, offset, place) if in_kernel else None
            if copied is None:
                in_kernel = False
                copied = _copy_block(extent.path, source, target, min(count, BUFFER), offset, place)
            if copied == 0:
                raise SourceError(f"{extent.path} ended at byte {offset} while it was copied; expected {end} bytes.")
            offset += copied
            progress(copied)
    finally:
        os.close(source)
    return begin + extent.length


def _copy_in_kernel(source: int, target: int, count: int, offset: int, place: int) -> int | None:
    """Copies bytes without reading them here. None where it fails: an ordinary copy then shows which side is to blame."""
    try:
        copied = os.copy_file_range(source, target, count, offset, place)
    except OSError:
        return None
    _start_writeback(target, place, copied)
    return copied


def _copy_block(path: Path, source: int, target: int, count: int, offset: int, place: int) -> int:
    with reading_source(path):
        block = os.pread(source, count, offset)
    _write_all(target, memoryview(block), place)
    return len(block)


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
