"""Sequences -> padded batches of few different shapes. Pure, imports no framework."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENS = 4096  # tokens in a batch, padding included
ROWS = 32  # sequences in a batch
CLIMB = 2  # a sequence is padded to at most so many times its own bucket


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids` and `mask` [B, T] int32, padded on the right; `rows` says which sequences the first rows are."""

    rows: tuple[int, ...]
    ids: NDArray[Any]
    mask: NDArray[Any]


def bucket(length: int) -> int:
    """The padded length of a sequence: powers of two and the middles between them, from 16."""
    size = 16
    while size < length:
        if size * 3 // 2 >= length:
            return size * 3 // 2
        size *= 2
    return size


def batches(sequences: Sequence[Sequence[int]]) -> Iterator[Batch]:
    """All sequences in batches of one padded length each, short ones first.

    What does not fill a batch joins the next longer bucket, up to CLIMB times its own, so that fewer shapes compile.
    """
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    groups = [(length, list(rows)) for length, rows in groupby(order, key=lambda row: bucket(len(sequences[row])))]
    waiting: list[int] = []
    for (length, members), (longer, _) in zip(groups, [*groups[1:], (0, [])], strict=False):
        rows, size = waiting + members, max(1, min(ROWS, TOKENS // length))
        full = len(rows) - len(rows) % size
        # Sorted by length: those that may not climb to the next bucket come first, and end here.
        stay = full + sum(CLIMB * bucket(len(sequences[row])) < longer or not longer for row in rows[full:])
        for start in range(0, stay, size):
            yield _batch(sequences, rows[start : min(start + size, stay)], length, size)
        waiting = rows[stay:]


def _batch(sequences: Sequence[Sequence[int]], rows: list[int], length: int, size: int) -> Batch:
    import numpy as np

    height = min(size, 1 << (len(rows) - 1).bit_length())
    ids, mask = np.zeros((height, length), np.int32), np.zeros((height, length), np.int32)
    mask[len(rows) :, 0] = 1  # rows that only fill the shape
    for i, row in enumerate(rows):
        ids[i, : len(sequences[row])] = sequences[row]
        mask[i, : len(sequences[row])] = 1
    return Batch(tuple(rows), ids, mask)
