"""Sequences that begin with the same tokens, so that those are computed once. Pure, imports no framework."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxconv.models.batching import bucket

SAVED = 512  # tokens that a prefix must save: about what one more compilation, and a batch of its own, cost
SAVED_AGAIN = 64  # likewise for a padded length that was compiled before: about what a batch of its own costs
Tokens = Sequence[int]


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences of a common beginning.

    Attributes:
        rows: Their indices.
        length: How many of their first tokens are computed once; 0 for sequences that are computed whole.
    """

    rows: tuple[int, ...]
    length: int


def prefix_groups(sequences: Sequence[Tokens], compiled: Collection[int] = ()) -> list[Group]:
    """Splits sequences so that shared beginnings save the most tokens; every sequence keeps a token of its own.

    Args:
        sequences: Token ids of each sequence, at least one each.
        compiled: Padded lengths of prefixes that were compiled before.

    Returns:
        Every row in exactly one group; at most one of them computes its rows whole.

    Example:
        >>> prefix_groups([[*range(200), 7]] * 10)
        [Group(rows=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9), length=200)]
    """
    order = sorted(range(len(sequences)), key=lambda row: tuple(sequences[row]))
    shared = [_shared(sequences[one], sequences[other]) for one, other in pairwise(order)]
    _, parts = _best(order, shared, compiled)
    grouped = {row for group in parts for row in group.rows}
    alone = tuple(row for row in range(len(sequences)) if row not in grouped)
    return [*parts, *([Group(alone, 0)] if alone else [])]


def _shared(one: Tokens, other: Tokens) -> int:
    shortest = min(len(one), len(other)) - 1
    return next((place for place in range(shortest) if one[place] != other[place]), shortest)


def _best(order: Sequence[int], shared: Sequence[int], compiled: Collection[int]) -> tuple[int, list[Group]]:
    """The most tokens that can be saved among sorted rows, and the groups that do: all rows, or parts and the rest."""
    if not shared:
        return 0, []
    length, saved = min(shared), 0
    parts: list[Group] = []
    # Parts differ by buckets, so that there are at most as many levels as there are buckets.
    for start, stop in _parts(shared, bucket(length)):
        gain, groups = _best(order[start:stop], shared[start : stop - 1], compiled)
        saved, parts = saved + gain, parts + groups
    rest = set(order).difference(*(group.rows for group in parts))
    cost = SAVED_AGAIN if bucket(length) in compiled else SAVED
    of_all, of_rest = ((count - 1) * length - cost for count in (len(order), len(rest)))
    if of_all > saved + max(of_rest, 0):
        return of_all, [Group(tuple(sorted(order)), length)]
    return (saved + of_rest, [*parts, Group(tuple(sorted(rest)), length)]) if of_rest > 0 else (saved, parts)


def _parts(shared: Sequence[int], length: int) -> Iterator[tuple[int, int]]:
    """Start and stop of the runs of rows that share more than `length` tokens with their neighbours."""
    start = 0
    for index, count in enumerate([*shared, 0]):
        if count <= length:
            yield start, index + 1
            start = index + 1
