"""Writes one planned file: bytes that lie in a source file go through the kernel, the rest tensor by tensor."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxconv.checkpoint import Array, Extent, TensorRef
from jaxconv.errors import SourceError
from jaxconv.readers.safetensors import header_bytes
from jaxconv.writer.plan import METADATA, OutputFile

CHUNK = 1 << 26  # bytes a kernel copy moves between two reports of progress
BLOCK = 1 << 22  # bytes of a transposed matrix that are put in order at once
TILE = 256  # columns
FICLONE = 0x40049409  # linux/fs.h
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)

Progress = Callable[[int], None]


def write_file(plan: OutputFile, folder: Path, copy_mode: str, progress: Progress) -> str:
    """Writes one output file into `folder` and syncs it. Returns what was done: link, reflink, copy or write.

    `progress` is called with the number of bytes done since the last call.
    """
    target = folder / plan.name
    share = {"link": _link, "reflink": _reflink}.get(copy_mode)
    if share is not None and plan.verbatim is not None and share(plan.verbatim, target):
        progress(plan.nbytes)
        return copy_mode
    with target.open("xb", buffering=0) as file:
        if plan.verbatim is not None:
            size = plan.verbatim.stat().st_size
            _copy(Extent(plan.verbatim, 0, size), file.fileno(), progress)
        else:
            layout = {ref.name: (ref.dtype, ref.shape, ref.nbytes) for ref in plan.tensors}
            _write_all(file.fileno(), memoryview(header_bytes(layout, METADATA)))
            for piece in _pieces(plan.tensors):
                if isinstance(piece, Extent):
                    _copy(piece, file.fileno(), progress)
                else:
                    _write_tensor(piece, file.fileno(), progress)
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


def _write_tensor(ref: TensorRef, target: int, progress: Progress) -> None:
    import numpy as np

    array = ref.read()
    if array.nbytes != ref.nbytes:
        raise SourceError(f"tensor {ref.name} gave {array.nbytes} bytes; expected {ref.nbytes} ({ref.dtype}).")
    if array.ndim == 2 and not array.flags.c_contiguous:
        _write_strided(array, target, progress)
        return
    _write_all(target, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    progress(array.nbytes)


def _write_strided(array: Array, target: int, progress: Progress) -> None:
    """A transposed matrix, some rows at a time through one small buffer: no second copy, and in tiles that caches hold."""
    import numpy as np

    height = max(1, BLOCK // max(1, array.shape[1] * array.itemsize))
    buffer = np.empty((min(height, array.shape[0]), array.shape[1]), array.dtype)
    for start in range(0, array.shape[0], height):
        block = array[start : start + height]
        for column in range(0, array.shape[1], TILE):
            buffer[: len(block), column : column + TILE] = block[:, column : column + TILE]
        _write_all(target, buffer[: len(block)].reshape(-1).view(np.uint8).data)
        progress(block.nbytes)


def _write_all(target: int, view: memoryview) -> None:
    while view:
        view = view[os.write(target, view) :]


def _copy(extent: Extent, target: int, progress: Progress) -> None:
    """Appends the extent to the target: by the kernel, or through a buffer where the kernel cannot."""
    source = os.open(extent.path, os.O_RDONLY)
    try:
        offset, end, in_kernel = extent.offset, extent.offset + extent.length, hasattr(os, "copy_file_range")
        while offset < end:
            want = min(CHUNK, end - offset)
            if in_kernel:
                try:
                    done = os.copy_file_range(source, target, want, offset)
                except OSError as error:
                    if error.errno not in _NO_KERNEL_COPY:
                        raise
                    in_kernel = False
                    continue
            else:
                block = os.pread(source, min(want, 1 << 20), offset)
                _write_all(target, memoryview(block))
                done = len(block)
            if done == 0:
                raise SourceError(f"{extent.path} ended at byte {offset} while it was copied; expected {end}.")
            offset += done
            progress(done)
    finally:
        os.close(source)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        return False
    return True


def _reflink(source: Path, target: Path) -> bool:
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
            return True
        except OSError:
            pass
    target.unlink()
    return False
