"""The pairs that are scored: a file's, the caller's or the built-in ones."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jaxconv.errors import UsageError
from jaxconv.pairs import parse_rows, read_rows

Pairs = tuple[tuple[str, str], ...]


def read_pairs(pairs: str | Path | Sequence[tuple[str, str]] | None) -> Pairs:
    """The (query, document) pairs.

    Args:
        pairs: A JSONL file ("-": standard input), the pairs themselves, or None for the built-in ones.

    Raises:
        UsageError: There are no pairs, or a line of the file is not one.
    """
    if pairs is None:
        rows = parse_rows((files(__package__) / "pairs.jsonl").read_text("utf-8").split("\n"), "pairs.jsonl")
    elif isinstance(pairs, str | Path):
        rows = read_rows(str(pairs))
    elif not pairs:
        raise UsageError("pairs is empty; expected at least one (query, document), or None for the built-in ones.")
    else:
        return tuple((query, document) for query, document in pairs)
    return tuple((row["query"], row["document"]) for row in rows)
