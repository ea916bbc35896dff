"""Checks token ids before a framework clamps or crashes on them. Imports no framework."""

from __future__ import annotations

from collections.abc import Sequence

from jaxconv.errors import UsageError


def check_token_ids(token_ids: Sequence[Sequence[int]], vocabulary_size: int) -> None:
    """Checks that every sequence has tokens, and every token an embedding row.

    Args:
        token_ids: The token ids of each sequence.
        vocabulary_size: The number of embedding rows.

    Raises:
        UsageError: A sequence is empty, or a token id is negative or too large.
    """
    for number, ids in enumerate(token_ids):
        if not ids:
            raise UsageError(f"sequence {number} has no tokens; expected at least one. Check the template.")
        for token in (min(ids), max(ids)):
            if not 0 <= token < vocabulary_size:
                raise UsageError(
                    f"sequence {number} has the token id {token}; the model has embedding rows for 0 to "
                    f"{vocabulary_size - 1} only. Use the tokenizer that the model was trained with."
                )
