"""The one door to a tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from jaxconv.errors import SourceError

# What one answer may look like in a vocabulary: plain, after a space (byte-level and sentencepiece), other case.
PREFIXES = ("", "Ġ", "▁", " ")


@dataclass(frozen=True, slots=True)
class Token:
    """One vocabulary entry whose logit counts. `text` is the vocabulary piece."""

    text: str
    id: int


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
        try:
            found = self.tokenizer.token_to_id(piece)
        except UnicodeEncodeError:  # half of a surrogate pair, which no vocabulary holds
            return None
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
