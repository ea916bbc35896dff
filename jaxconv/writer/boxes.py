"""Writes the tensors of large arrays while these are read: each part goes to its places in the file as it comes.

Two parts are in memory, one that is read and one that is placed, however large the array is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from jaxconv.checkpoint import Array, Boxes, TensorRef, numpy_dtype
from jaxconv.errors import SourceError
from jaxconv.writer.destination import Progress, Sink
from jaxconv.writer.io_errors import reading_source

THREADS = min(4, os.cpu_count() or 1)
TILE = (512, 64)  # rows and columns that are put in order at once: 64 KB of two bytes each, which fit in a cache


def write_boxes(tensors: Sequence[tuple[int, TensorRef]], sink: Sink, progress: Progress) -> bool:
    """Writes tensors of one array.

    Args:
        tensors: Each with its offset in the file.
        sink: The file.
        progress: Called with the number of bytes written since the last call.

    Returns:
        False if the file takes bytes in order only; then nothing was written.

    Raises:
        SourceError: The array cannot be read.
    """
    memory = [sink.mapped(offset, ref.nbytes) for offset, ref in tensors]
    places = [
        (raw.view(numpy_dtype(ref.dtype)).reshape(ref.boxes.shape), ref.boxes)
        for raw, (_, ref) in zip(memory, tensors, strict=True)
        if raw is not None and ref.boxes is not None
    ]
    if len(places) < len(tensors):
        return False
    boxes = places[0][1].read()
    done = 0
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(THREADS) as pool:
        ahead = reader.submit(next, boxes, None)
        while True:
            with reading_source(f"tensor {tensors[0][1].name}"):
                box = ahead.result()
            if box is None:
                break
            ahead = reader.submit(next, boxes, None)
            for nbytes in pool.map(lambda place, box=box: _put(*place, *box), places):
                done += nbytes
                progress(nbytes)
            del box
    expected = sum(ref.nbytes for _, ref in tensors)
    if done != expected:
        raise SourceError(f"tensor {tensors[0][1].name} and those beside it have {done} bytes of data; expected {expected}.")
    return True


def _put(target: Array, boxes: Boxes, start: tuple[int, ...], values: Array) -> int:
    placed = boxes.place(start, values)
    if placed is None:
        return 0
    region, part = placed
    bits = f"u{part.itemsize}"  # NumPy copies dtypes that are not its own slowly, and holding the GIL
    _copy(target.view(bits)[region], part.view(bits))
    return part.nbytes


def _copy(target: Array, values: Array) -> None:
    """Copies values in whatever order they lie, tile by tile where that is another one than the target's."""
    if values.ndim < 2 or values.strides[-1] == values.itemsize:
        target[...] = values
    elif values.ndim > 2:
        for number in range(values.shape[0]):
            _copy(target[number], values[number])
    else:
        for row in range(0, values.shape[0], TILE[0]):
            for column in range(0, values.shape[1], TILE[1]):
                tile = slice(row, row + TILE[0]), slice(column, column + TILE[1])
                target[tile] = values[tile]
