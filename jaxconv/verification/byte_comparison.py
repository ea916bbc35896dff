"""Two tensors in files, byte by byte, in pieces that fit a core's cache."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxconv.checkpoint import DTYPE_BITS, Array, numpy_dtype
from jaxconv.errors import SourceError
from jaxconv.verification.output import Stored

CHUNK = 1 << 20  # bytes compared at a time: source, output and the result of comparing fit a core's cache
_LOCAL = threading.local()


def compare_bytes(source: Stored, output: Stored) -> tuple[int, int]:
    """How many elements of the output differ from the source's, cast to the output's dtype, and the first of them (-1: none).

    Raises:
        SourceError: A file ended early.
    """
    if source.dtype == output.dtype and source.offset == output.offset and os.path.samefile(source.path, output.path):
        return 0, -1  # a hard link: the same bytes of the same file
    itemsize = max(1, DTYPE_BITS[output.dtype] // 8)
    different, first = 0, -1
    for begin, expected, actual in _pieces(source, output):
        if not _equal(expected, actual):
            places = (expected != actual).reshape(-1, itemsize).any(axis=1).nonzero()[0]
            different += len(places)
            first = first if first >= 0 else begin // itemsize + int(places[0])
    return different, first


def _equal(x: Array, y: Array) -> bool:
    """Whether two byte arrays are equal, eight bytes at a time as far as they go."""
    import numpy as np

    whole = len(x) & ~7
    return np.array_equal(x[:whole].view(np.uint64), y[:whole].view(np.uint64)) and np.array_equal(x[whole:], y[whole:])


def _pieces(source: Stored, output: Stored) -> Iterator[tuple[int, Array, Array]]:
    """First byte in the output, the source's bytes in the output's dtype, and the output's bytes, piece by piece."""
    import numpy as np

    if not hasattr(_LOCAL, "buffers"):
        _LOCAL.buffers = [
            np.empty(8 * CHUNK, np.uint8),
            np.empty(8 * CHUNK, np.uint8),
        ]  # a cast widens a byte to eight at most
    source_buffer, output_buffer = _LOCAL.buffers
    done = 0
    with _opened(source.path) as source_file, _opened(output.path) as output_file:
        for start in range(0, source.nbytes, CHUNK):
            expected = source_buffer[: min(CHUNK, source.nbytes - start)]
            _fill(source_file, source.path, source.offset + start, expected)
            if source.dtype != output.dtype:
                expected = expected.view(numpy_dtype(source.dtype)).astype(numpy_dtype(output.dtype)).view(np.uint8)
            actual = output_buffer[: len(expected)]
            _fill(output_file, output.path, output.offset + done, actual)
            yield done, expected, actual
            done += len(expected)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _fill(handle: int, path: Path, offset: int, target: Array) -> None:
    view, done = memoryview(target.data), 0
    while done < len(view):
        count = os.preadv(handle, [view[done:]], offset + done)
        if count == 0:
            raise SourceError(f"{path} ended at byte {offset + done} while it was compared. Convert the source again.")
        done += count
