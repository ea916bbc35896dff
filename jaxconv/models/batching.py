"""Sequences -> padded batches of few different shapes. Pure, imports no framework."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOKENS = 4096  # tokens in a batch, padding included
ROWS = 32  # sequences in a batch
CLIMB = 2  # an incomplete batch is padded to at most so many times its own length

Shape = tuple[int, int]  # sequences, tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded batch.

    Attributes:
        rows: The indices of the sequences in the first rows of `ids`; further rows only fill the shape.
        ids: Token ids [B, T] int32, padded on the right with 0.
        mask: 1 where `ids` holds a token, 0 where it is padding, [B, T] int32.
    """

    rows: tuple[int, ...]
    ids: NDArray[np.int32]
    mask: NDArray[np.int32]


def bucket(length: int) -> int:
    """The padded length of a sequence: powers of two and the middles between them, from 16."""
    size = 16
    while size < length:
        if size * 3 // 2 >= length:
            return size * 3 // 2
        size *= 2
    return size


class Batcher:
    """Cuts sequences into batches, in as few shapes as is worthwhile, since each new shape has to be compiled.

    An incomplete batch takes a shape that has been used before, if one is large enough, until the padding spent in place
    of a smaller shape would exceed one full batch; then that smaller shape is used. What one call has compiled
    therefore serves the next, and the end of a stream seldom compiles anything.

    Attributes:
        shapes: The shapes used so far.
    """

    def __init__(self) -> None:
        self.shapes: set[Shape] = set()
        self._padding: dict[Shape, int] = {}  # shape not yet used -> tokens of padding spent in its place

    def batches(self, sequences: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """All sequences in batches of one padded length each, short ones first.

        Incomplete batches join the next longer bucket, up to CLIMB times their own length.
        """
        order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
        groups = [(length, list(rows)) for length, rows in groupby(order, key=lambda row: bucket(len(sequences[row])))]
        waiting: list[int] = []
        for (length, members), (longer, _) in zip(groups, [*groups[1:], (0, [])], strict=False):
            rows, size = waiting + members, max(1, min(ROWS, TOKENS // length))
            full = len(rows) - len(rows) % size
            # Sorted by length: those too short for the next bucket come first, and end here.
            stay = full + sum(CLIMB * bucket(len(sequences[row])) < longer or not longer for row in rows[full:])
            for start in range(0, stay, size):
                batch = rows[start : min(start + size, stay)]
                yield _pad(sequences, batch, self._shape(len(batch), length, size))
            waiting = rows[stay:]

    def _shape(self, count: int, length: int, size: int) -> Shape:
        """The shape for `count` sequences of a bucket whose full batches have `size` rows."""
        smallest = min(size, 1 << (count - 1).bit_length()), length
        fitting = [shape for shape in self.shapes if shape[0] >= count and shape[1] >= length]
        if smallest not in self.shapes and fitting:
            best = min(fitting, key=lambda shape: (shape[0] * shape[1], shape))
            spent = self._padding.get(smallest, 0) + best[0] * best[1] - smallest[0] * smallest[1]
            if spent <= TOKENS:
                self._padding[smallest] = spent
                return best
        self.shapes.add(smallest)
        return smallest


def _pad(sequences: Sequence[Sequence[int]], rows: list[int], shape: Shape) -> Batch:
    import numpy as np

    ids, mask = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask[len(rows) :, 0] = 1  # rows that only fill the shape
    for i, row in enumerate(rows):
        ids[i, : len(sequences[row])] = sequences[row]
        mask[i, : len(sequences[row])] = 1
    return Batch(tuple(rows), ids, mask)
