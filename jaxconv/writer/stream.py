"""Writes one planned file: bytes that lie in a source file are copied unread, the rest goes tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, chain, pairwise

from jaxconv.checkpoint import Array, Extent, TensorRef
from jaxconv.errors import RefusedError, SourceError
from jaxconv.safetensors_header import header_bytes
from jaxconv.storage import identity_of
from jaxconv.writer.boxes import THREADS, TILE, write_boxes
from jaxconv.writer.destination import Destination, Progress, Sink
from jaxconv.writer.io_errors import reading_source, writing_output
from jaxconv.writer.shards import OutputFile
from jaxconv.writer.source_files import check_unchanged

BLOCK = 1 << 22  # bytes of a transposed matrix that are put in order at once
READ_AHEAD = 1 << 28  # bytes that may be held while the next tensor is read


def write_file(plan: OutputFile, destination: Destination, copy_mode: str, progress: Progress) -> str:
    """Writes one output file and syncs it.

    Args:
        plan: The file.
        destination: What takes it.
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
            how = _write_file(plan, destination, copy_mode, progress)
    except (SourceError, RefusedError):
        check_unchanged(plan.sources)  # a change is the better explanation
        raise
    check_unchanged(plan.sources)
    return how


def _write_file(plan: OutputFile, destination: Destination, copy_mode: str, progress: Progress) -> str:
    if plan.verbatim is not None:
        how = destination.take(plan.verbatim, plan.name, copy_mode)
        if how is not None:
            progress(plan.nbytes)
            return how
        with reading_source(plan.verbatim):
            size = identity_of(plan.verbatim).size
        with destination.create(plan.name, size) as sink:
            sink.copy(Extent(plan.verbatim, 0, size), 0, progress)
        return "copy"
    layout = {ref.name: (ref.dtype, ref.shape, ref.nbytes) for ref in plan.tensors}
    header = header_bytes(layout, plan.metadata)
    with destination.create(plan.name, len(header) + plan.nbytes) as sink:
        sink.write(memoryview(header), 0)
        starts = accumulate((ref.nbytes for ref in plan.tensors), initial=len(header))
        left = _write_large(dict(zip(starts, plan.tensors, strict=False)), sink, progress)
        _write_pieces(_pieces(left), sink, progress)
    return "write"


def _write_large(tensors: Mapping[int, TensorRef], sink: Sink, progress: Progress) -> Mapping[int, TensorRef]:
    """Writes the tensors of arrays that are read part by part, if the file takes parts. Returns the others, by offset."""
    groups: dict[object, list[tuple[int, TensorRef]]] = {}
    for offset, ref in tensors.items():
        if ref.boxes is not None:
            groups.setdefault(ref.boxes.read, []).append((offset, ref))
    written = {offset for group in groups.values() if write_boxes(group, sink, progress) for offset, _ in group}
    return {offset: ref for offset, ref in tensors.items() if offset not in written}


def _pieces(tensors: Mapping[int, TensorRef]) -> Iterator[tuple[int, Extent | TensorRef]]:
    """The tensors with their offsets, in order, neighbouring extents of one file joined into one."""
    begin, pending = 0, None
    for offset, ref in tensors.items():
        extent = ref.extent
        joins = pending is not None and offset == begin + pending.length
        if joins and extent and pending and extent.path == pending.path and extent.offset == pending.offset + pending.length:
            pending = Extent(pending.path, pending.offset, pending.length + extent.length)
            continue
        if pending:
            yield begin, pending
        begin, pending = offset, extent
        if extent is None:
            yield offset, ref
    if pending:
        yield begin, pending


def _write_pieces(pieces: Iterable[tuple[int, Extent | TensorRef]], sink: Sink, progress: Progress) -> None:
    """Copies and writes the pieces in order to their offsets; the next tensor is read meanwhile if both are small."""
    with ThreadPoolExecutor(1) as reader:
        ahead: Future[Array] | None = None
        for (offset, piece), (_, following) in pairwise(chain(pieces, [(0, None)])):
            array = None  # the previous one is released before another is read
            if isinstance(piece, TensorRef):
                array = _read(piece) if ahead is None else ahead.result()
            room = READ_AHEAD - (0 if array is None else _footprint(array))
            # Reading may take twice the tensor: decompressed, and in its place.
            fits = isinstance(following, TensorRef) and 2 * following.nbytes <= room
            ahead = reader.submit(_read, following) if fits and isinstance(following, TensorRef) else None
            if isinstance(piece, Extent):
                sink.copy(piece, offset, progress)
            elif piece is not None and array is not None:
                _write_tensor(piece, array, sink, offset, progress)


def _read(ref: TensorRef) -> Array:
    with reading_source(f"tensor {ref.name}"):
        return ref.read()


def _footprint(array: Array) -> int:
    """Bytes that the array keeps in memory: those of the array that it is a view of."""
    import numpy as np

    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.nbytes


def _write_tensor(ref: TensorRef, array: Array, sink: Sink, offset: int, progress: Progress) -> None:
    """Writes the tensor's array at an offset of the file."""
    import numpy as np

    if array.nbytes != ref.nbytes:
        raise SourceError(f"tensor {ref.name} has {array.nbytes} bytes of data; expected {ref.nbytes} ({ref.dtype}).")
    if array.ndim == 2 and not array.flags.c_contiguous:
        _write_strided(array, sink, offset, progress)
    else:
        sink.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, offset)
        progress(array.nbytes)


def _write_strided(array: Array, sink: Sink, offset: int, progress: Progress) -> None:
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
        sink.write(ordered.reshape(-1).view(np.uint8).data, offset + first * stride)
        return ordered.nbytes

    with ThreadPoolExecutor(THREADS) as pool:
        for done in pool.map(write, range(0, array.shape[0], height)):
            progress(done)
