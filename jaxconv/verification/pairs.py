"""The pairs that are scored: a file's, the caller's or the built-in ones."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jaxconv.errors import UsageError
from jaxconv.pairs import access_of, parse_rows, read_rows
from jaxconv.pictures import PictureAccess, Side, SideLike, SideText, side_of, text_of

Pairs = tuple[tuple[SideText, SideText], ...]
TextPairs = tuple[tuple[str, str], ...]


def read_pairs(pairs: str | Path | Sequence[tuple[SideLike, SideLike]] | None, remote: bool = False) -> Pairs:
    """The (query, document) pairs.

    Args:
        pairs: A JSONL file ("-": standard input), the pairs themselves, or None for the built-in ones of text.
        remote: Whether pictures are fetched from http and https addresses.

    Raises:
        UsageError: There are no pairs, a line of the file is not one, or a picture cannot be read.
    """
    access = PictureAccess(remote=remote)
    if pairs is None:
        rows = parse_rows((files(__package__) / "pairs.jsonl").read_text("utf-8").split("\n"), "pairs.jsonl")
        named = [(row["query"], row["document"]) for row in rows]
    elif isinstance(pairs, str | Path):
        named = [(row["query"], row["document"]) for row in read_rows(str(pairs))]
        access = access_of(str(pairs), remote)
    elif not pairs:
        raise UsageError("pairs is empty; expected at least one (query, document), or None for the built-in ones.")
    else:
        named = list(pairs)
    return tuple(
        (side_of(query, access, f"query {number}"), side_of(document, access, f"document {number}"))
        for number, (query, document) in enumerate(named)
    )


def has_pictures(pair: tuple[SideText, SideText]) -> bool:
    """Whether the query or the document of `pair` has a picture."""
    return any(isinstance(side, Side) for side in pair)


def as_texts(pairs: Pairs, mark: str | None) -> TextPairs:
    """The pairs as templates get them, with marks for pictures.

    Args:
        pairs: The pairs.
        mark: What stands for a picture; None for a model of text.

    Raises:
        UsageError: A pair has pictures, and the model reads none.
    """
    return tuple((text_of(query, mark), text_of(document, mark)) for query, document in pairs)
