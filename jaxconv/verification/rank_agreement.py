"""How much of an order is kept, counted without comparing every pair with every other."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxconv.checkpoint import Array


def rank_agreement(expected: Array, actual: Array, gap: float) -> float:
    """The share of pairs of rows, more than `gap` apart in `expected`, that `actual` orders alike.

    Args:
        expected: Scores [N, labels].
        actual: Scores [N, labels]; NaN is ordered like nothing.
        gap: How far apart two rows must be to count.

    Returns:
        A share over all labels; 1 if no rows are that far apart. Takes memory for N numbers, not for N x N.
    """
    apart = alike = 0
    for label in range(expected.shape[1]):
        counts = _count(expected[:, label].tolist(), actual[:, label].tolist(), gap)
        apart, alike = apart + counts[0], alike + counts[1]
    return alike / apart if apart else 1.0


def _count(expected: Sequence[float], actual: Sequence[float], gap: float) -> tuple[int, int]:
    """Pairs that are apart, and how many of these are ordered alike.

    Goes through the rows from the best to the worst; `better` holds the sorted actual scores of the rows that are better than
    the present one by more than `gap`.
    """
    rows = sorted(((e, a) for e, a in zip(expected, actual, strict=True) if e == e), reverse=True)
    better: list[float] = []
    apart = alike = passed = 0
    for score, other in rows:
        while passed < len(rows) and rows[passed][0] - score > gap:
            if rows[passed][1] == rows[passed][1]:
                insort(better, rows[passed][1])
            passed += 1
        apart += passed
        if other == other:
            alike += len(better) - bisect_right(better, other)
    return apart, alike
