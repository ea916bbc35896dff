"""The tokens whose rows are taken: exact vocabulary pieces, texts of exactly one token, or ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from jaxconv.errors import SourceError, TokenError
from jaxconv.plan import Method, Token

ORDER = "Order: false first, true second."
# What one answer may look like in a vocabulary: plain, after a space (byte-level and sentencepiece), other case.
PREFIXES = ("", "Ġ", "▁", " ")


class Vocabulary:
    """The tokenizer of a source, as far as resolving tokens needs it. Reads `tokenizer.json`."""

    def __init__(self, assets: Path) -> None:
        self.path = assets / "tokenizer.json"
        if not self.path.is_file():
            raise SourceError(
                f"{assets} has no tokenizer.json; expected one, since tokens are checked against it. "
                "Save the tokenizer with a recent transformers, or pass --base with a folder that has it."
            )

    @cached_property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`. Raises `SourceError` when the file is damaged."""
        try:
            return _read_tokenizer(self.path, self.path.stat().st_mtime_ns)
        except Exception as error:  # tokenizers raises bare Exception
            raise SourceError(f"{self.path} cannot be read as a tokenizer: {error}. Download it again.") from None

    @cached_property
    def unknown(self) -> str | None:
        """The piece that stands for everything unknown, if the tokenizer has one."""
        piece = json.loads(self.tokenizer.to_str())["model"].get("unk_token")
        return piece if isinstance(piece, str) else None

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    def id(self, piece: str) -> int | None:
        """The id of an exact piece."""
        found = self.tokenizer.token_to_id(piece)
        return None if found is None else int(found)

    def piece(self, index: int) -> str | None:
        """The piece of an id."""
        found = self.tokenizer.id_to_token(index)
        return None if found is None else str(found)

    def encode(self, text: str) -> list[Token]:
        """The pieces of a text without special tokens."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return [Token(piece, index) for piece, index in zip(encoding.tokens, encoding.ids, strict=True)]

    def near(self, text: str) -> str:
        """Pieces a person may have meant by `text`, with their ids."""
        stem = text.strip().lstrip("Ġ▁ ")
        forms = dict.fromkeys(prefix + form for form in (stem, stem.lower(), stem.title()) for prefix in PREFIXES)
        found = [f"{form!r} ({self.id(form)})" for form in forms if form and self.id(form) is not None]
        return f"Near pieces: {', '.join(found)}." if found else "No near pieces."


@lru_cache(maxsize=2)
def _read_tokenizer(path: Path, changed: int) -> Any:
    """A large vocabulary takes a second or more to read, and several stages look at it."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def resolve_tokens(
    *, pieces: Sequence[str] | None, ids: Sequence[int] | None, vocabulary: Vocabulary, num_rows: int, method: Method
) -> tuple[Token, ...]:
    """The tokens of `pieces` (strings) or `ids`, in order, checked against the vocabulary and the head's rows.

    A string is an exact piece, as vLLM resolves it, else a text that encodes to exactly one id. Raises
    `TokenError` for one that is unknown, in several pieces, the unknown piece, doubled, out of range or padding.
    """
    if pieces is not None and ids is not None:
        raise TokenError("both --classifier-from-tokens and --token-ids were given; expected one of them.")
    given: Sequence[Any] = pieces if pieces is not None else ids or ()
    _check_count(len(given), method)
    if pieces is not None:
        tokens = [_from_text(text, vocabulary) for text in pieces]
    else:
        tokens = [_from_id(index, vocabulary, num_rows) for index in given]
    for token in tokens:
        if token.id >= num_rows:
            raise TokenError(
                f"token {token.text!r} has id {token.id}, but the LM head has only {num_rows} rows; "
                "the tokenizer and the weights do not belong together."
            )
    if len({token.id for token in tokens}) != len(tokens):
        shown = ", ".join(f"{token.text!r} ({token.id})" for token in tokens)
        raise TokenError(f"the tokens are not all different: {shown}. {vocabulary.near(tokens[0].text)} {ORDER}")
    return tuple(tokens)


def _check_count(count: int, method: Method) -> None:
    if method == "from_2_way_softmax" and count != 2:
        raise TokenError(f"method from_2_way_softmax takes exactly two tokens, not {count}. {ORDER}")
    if count == 0:
        raise TokenError("method no_post_processing takes at least one token, not an empty list.")


def _from_text(text: Any, vocabulary: Vocabulary) -> Token:
    if not isinstance(text, str) or not text:
        raise TokenError(f"token {text!r} is not a string of at least one character; use --token-ids for ids.")
    index = vocabulary.id(text)
    if index is not None and text == vocabulary.unknown:
        raise TokenError(f"token {text!r} is the tokenizer's unknown piece; to take its row give its id, {index}.")
    if index is not None:
        return Token(text, index)
    encoded = vocabulary.encode(text)
    shown = " + ".join(f"{token.text!r} ({token.id})" for token in encoded) or "nothing"
    if len(encoded) != 1:
        raise TokenError(
            f"token {text!r} is no single vocabulary piece: it encodes to {len(encoded)} pieces, {shown}. "
            f"{vocabulary.near(text)} Give one of them, or an id with --token-ids. {ORDER}"
        )
    if encoded[0].text == vocabulary.unknown:
        raise TokenError(f"token {text!r} is unknown to the tokenizer: it encodes to {shown}. {vocabulary.near(text)}")
    return encoded[0]


def _from_id(index: Any, vocabulary: Vocabulary, num_rows: int) -> Token:
    if type(index) is not int or index < 0:
        raise TokenError(f"token id {index!r} is not a whole number of zero or more; expected one below {num_rows}.")
    if index >= num_rows:
        raise TokenError(f"token id {index} is out of range: the LM head has {num_rows} rows. {ORDER}")
    piece = vocabulary.piece(index)
    if piece is None:
        raise TokenError(
            f"token id {index} names no piece: the tokenizer has {len(vocabulary)} entries, the rows above are padding."
        )
    return Token(piece, index)
