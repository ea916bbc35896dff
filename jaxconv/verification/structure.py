"""Every backbone tensor of the output against the source, bit by bit, in bounded pieces on several threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import DTYPE_BITS, Array, Checkpoint, TensorRef, numpy_dtype
from jaxconv.errors import SourceError
from jaxconv.verification.output import Stored

CHUNK = 1 << 20  # bytes compared at a time: source, output and the result of comparing fit a core's cache
BLOCK = 1 << 25  # bytes that a layout changes at a time
FLOATS = ("F64", "F32", "F16", "BF16")
SCORE = ("score.weight", "score.bias")


@dataclass(frozen=True, slots=True)
class Structure:
    """How many backbone tensors the source has, how many of them the output has bit for bit, and which names differ."""

    tensors: int
    identical: int
    mismatched: tuple[str, ...]
    findings: tuple[str, ...]


def compare_tensors(source: Checkpoint, output: Mapping[str, Stored], dtype: str | None) -> Structure:
    """Compares every tensor of `source` (Hugging Face names, no head) with the output's; `dtype` is a cast on the way.

    Missing tensors, and those of the output that are neither backbone nor score, count as mismatched.
    """
    local = threading.local()

    def one(item: tuple[str, TensorRef]) -> str | None:
        return _difference(item[1], output.get(item[0]), dtype, local)

    # Large ones first, so that no thread is left alone with one at the end.
    items = sorted(source.tensors.items(), key=lambda item: -item[1].nbytes)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        said = dict(zip((name for name, _ in items), pool.map(one, items), strict=True))
    wrong = {name: text for name in source.tensors if (text := said[name]) is not None}
    identical = len(source.tensors) - len(wrong)
    for name in sorted(output.keys() - source.tensors.keys() - set(SCORE)):
        wrong[name] = "is in the output and is no tensor of the classifier."
    return Structure(
        len(source.tensors), identical, tuple(wrong), tuple(f"tensor {name} {text}" for name, text in wrong.items())
    )


def _difference(ref: TensorRef, stored: Stored | None, cast: str | None, local: threading.local) -> str | None:
    """What is wrong with one tensor, or None."""
    if stored is None:
        return "is missing from the output."
    expected = cast if cast is not None and ref.dtype in FLOATS else ref.dtype
    if (stored.dtype, stored.shape) != (expected, ref.shape):
        return f"is {stored.dtype} {list(stored.shape)}; expected {expected} {list(ref.shape)}."
    if expected == ref.dtype and ref.extent is not None and _same_place(ref, stored):
        return None
    itemsize = max(1, DTYPE_BITS[expected] // 8)
    different, first = 0, -1
    for begin, wanted, found in _pairs(ref, stored, expected, local):
        if not _equal(wanted, found):
            where = (wanted != found).reshape(-1, itemsize).any(axis=1).nonzero()[0]
            different += len(where)
            first = first if first >= 0 else begin // itemsize + int(where[0])
    if not different:
        return None
    total = stored.nbytes // itemsize
    return f"differs from the source in {different} of {total} elements, first in element {first} of {stored.path.name}."


def _same_place(ref: TensorRef, stored: Stored) -> bool:
    """Whether both are the same bytes of the same file (a hard link)."""
    extent = ref.extent
    return extent is not None and extent.offset == stored.offset and os.path.samefile(extent.path, stored.path)


def _equal(x: Array, y: Array) -> bool:
    """Whether two byte arrays are equal, eight bytes at a time as far as they go."""
    import numpy as np

    whole = len(x) & ~7
    return np.array_equal(x[:whole].view(np.uint64), y[:whole].view(np.uint64)) and np.array_equal(x[whole:], y[whole:])


def _pairs(ref: TensorRef, stored: Stored, dtype: str, local: threading.local) -> Iterator[tuple[int, Array, Array]]:
    """First byte, wanted bytes and found bytes of each piece of a tensor."""
    import numpy as np

    if not hasattr(local, "buffers"):
        local.buffers = [np.empty(CHUNK, np.uint8), np.empty(CHUNK, np.uint8)]
    one, other = local.buffers
    handle = os.open(stored.path, os.O_RDONLY)
    try:
        for begin, wanted in _source_bytes(ref, dtype, one):
            for start in range(0, len(wanted), CHUNK):
                piece = wanted[start : start + CHUNK]
                found = other[: len(piece)]
                _fill(handle, stored.path, stored.offset + begin + start, found)
                yield begin + start, piece, found
    finally:
        os.close(handle)


def _source_bytes(ref: TensorRef, dtype: str, buffer: Array) -> Iterator[tuple[int, Array]]:
    """The source's bytes in order, cast to `dtype`, each piece with its first byte in the result."""
    import numpy as np

    done = 0
    for piece in _stored_bytes(ref, buffer) if ref.extent is not None else _rows(ref):
        if ref.dtype != dtype:
            piece = piece.view(numpy_dtype(ref.dtype)).astype(numpy_dtype(dtype)).view(np.uint8)
        yield done, piece
        done += len(piece)


def _stored_bytes(ref: TensorRef, buffer: Array) -> Iterator[Array]:
    extent = ref.extent
    if extent is None:
        return
    handle = os.open(extent.path, os.O_RDONLY)
    try:
        for start in range(0, extent.length, CHUNK):
            piece = buffer[: min(CHUNK, extent.length - start)]
            _fill(handle, extent.path, extent.offset + start, piece)
            yield piece
    finally:
        os.close(handle)


def _rows(ref: TensorRef) -> Iterator[Array]:
    """Bytes of a tensor that has to be changed or fetched: the whole of a small one, else some rows at a time."""
    import numpy as np

    def flat(array: Any) -> Array:
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    if ref.nbytes <= BLOCK or len(ref.shape) < 2:
        yield flat(ref.read())
        return
    step = max(1, BLOCK * ref.shape[0] // ref.nbytes)
    for start in range(0, ref.shape[0], step):
        yield flat(ref.read_rows(range(start, min(start + step, ref.shape[0]))))


def _fill(handle: int, path: Path, offset: int, target: Array) -> None:
    view, done = memoryview(target.data), 0
    while done < len(view):
        count = os.preadv(handle, [view[done:]], offset + done)
        if count == 0:
            raise SourceError(f"{path} ended at byte {offset + done} while it was compared.")
        done += count
