"""The one door to the tokenizer of a folder: tokenizer.json, read as those who will serve the model read it."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from jaxconv.errors import SourceError, UsageError
from jaxconv.text.tokenizer_classes import Building, RustTokenizer, is_rebuilt, rebuild
from jaxconv.text.tokenizer_settings import AddedText, TokenizerSettings, read_settings

# What one answer may look like in a vocabulary: plain, after a space (byte-level and sentencepiece), other case.
PREFIXES = ("", "Ġ", "▁", " ")


@dataclass(frozen=True, slots=True)
class Token:
    """One vocabulary entry whose logit counts. `text` is the vocabulary piece."""

    text: str
    id: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenised text.

    Attributes:
        ids: The token ids.
        tokens: The vocabulary piece of each.
        offsets: The characters of the text that each stands for, as [start, end); (0, 0) for one that was added.
        special: Whether each was added by the tokenizer.
    """

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    special: list[bool]


# What tokenizers were saved as before tokenizer.json.
OLDER_FORMS = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "tekken.json")


def _saving(assets: Path) -> str:
    """A command that adds tokenizer.json to `assets`."""
    code = f"from transformers import AutoTokenizer as A; A.from_pretrained({str(assets)!r}).save_pretrained({str(assets)!r})"
    return f"python -c {shlex.quote(code)}"


class Vocabulary:
    """The tokenizer of a folder, without the padding and truncation that a training run may have left in its file."""

    def __init__(self, assets: Path) -> None:
        self.assets = assets
        self.path = assets / "tokenizer.json"
        if not self.path.is_file():
            files = [name for name in OLDER_FORMS if (assets / name).is_file()]
            remedy = (
                f"It has {', '.join(files)}, from which transformers makes one: {_saving(assets)}"
                if files
                else "Copy it there"
            )
            raise SourceError(
                f"{assets} has no tokenizer.json; expected one, since tokens are checked against it. {remedy}, "
                "or pass --base with a directory that has it."
            )

    @cached_property
    def tokenizer(self) -> RustTokenizer:
        """The `tokenizers.Tokenizer`, with the tokens that the other files add, as its class in transformers builds it.

        Raises:
            SourceError: A file is damaged.
        """
        tokenizer = self.stored
        present = {token.content: _as_added_text(token) for token in tokenizer.get_added_tokens_decoder().values()}
        changed = {token.content: token for token in self.settings.decoder_tokens if present.get(token.content) != token}
        for token in self.settings.added_tokens:
            if token.content not in present:
                changed.setdefault(token.content, token)
        if not changed and not is_rebuilt(self.settings.class_name):
            return tokenizer
        return self._read(tuple(changed.values()), self.settings.building)[0]

    @property
    def stored(self) -> RustTokenizer:
        """The `tokenizers.Tokenizer` as tokenizer.json alone has it."""
        return self._read()[0]

    def _read(self, added: tuple[AddedText, ...] = (), building: Building | None = None) -> tuple[RustTokenizer, str | None]:
        try:
            return _read_tokenizer(self.path, self.path.stat().st_mtime_ns, added, building)
        except BaseException as error:  # tokenizers raises bare Exception, and its panics are not Exceptions
            raise self._damaged(error) from None

    def _damaged(self, error: BaseException) -> SourceError:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error
        return SourceError(f"{self.path} cannot be used as a tokenizer: {error}. Download it, or save it, again.")

    @cached_property
    def settings(self) -> TokenizerSettings:
        """What the files beside tokenizer.json say. Raises `SourceError` for a damaged one."""
        parts = (self.stored.pre_tokenizer, self.stored.decoder)
        return read_settings(self.assets, any("ByteLevel" in str(part) for part in parts))

    @property
    def special_tokens(self) -> dict[str, str]:
        """The special tokens by name, as transformers hands them to a chat template.

        A pad token that only the padding stored in tokenizer.json names counts too.
        """
        padding = self._read()[1]
        stored = {} if padding is None or "pad_token" in self.settings.special_tokens else {"pad_token": padding}
        return {**self.settings.special_tokens, **stored}

    @cached_property
    def unknown(self) -> int | None:
        """The id that stands for everything unknown, if the tokenizer has one."""
        model = self.tokenizer.model
        if type(model).__name__ == "Unigram":
            index = json.loads(self.tokenizer.to_str())["model"].get("unk_id")
            return index if isinstance(index, int) else None
        piece = getattr(model, "unk_token", None)
        return self.id(piece) if isinstance(piece, str) else None

    @cached_property
    def added(self) -> dict[int, tuple[str, bool]]:
        """The added tokens by id, in order: text, and whether it is a special one."""
        added = self.tokenizer.get_added_tokens_decoder()
        return {int(index): (str(added[index].content), bool(added[index].special)) for index in sorted(added)}

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    def beyond(self, rows: int) -> list[Token]:
        """The entries whose id is `rows` or more, in order of their ids."""
        entries = self.tokenizer.get_vocab(with_added_tokens=True).items()
        return sorted((Token(text, index) for text, index in entries if index >= rows), key=lambda token: token.id)

    def id(self, piece: str) -> int | None:
        """The id of an exact piece."""
        try:
            index = self.tokenizer.token_to_id(piece)
        except UnicodeEncodeError:  # half of a surrogate pair, which no vocabulary holds
            return None
        return None if index is None else int(index)

    def piece(self, index: int) -> str | None:
        """The piece of the id `index`, None if the tokenizer has none."""
        if not 0 <= index < 2**32:  # what tokenizers keeps an id in
            return None
        piece = self.tokenizer.id_to_token(index)
        return None if piece is None else str(piece)

    def encode(self, text: str) -> list[Token]:
        """The pieces of a text without special tokens."""
        encoded = self.tokenize(text, special=False)
        return [Token(piece, index) for piece, index in zip(encoded.tokens, encoded.ids, strict=True)]

    def ids(self, text: str, special: bool = True) -> list[int]:
        """The ids of a text; with `special` tokens added around it, as vLLM adds them."""
        return self.tokenize(text, special).ids

    def tokenize(self, text: str, special: bool = True) -> Encoded:
        """The tokens of a text with their places in it.

        Args:
            text: The text.
            special: Whether the tokenizer adds its special tokens around it, as vLLM has it do.

        Raises:
            UsageError: The text is not Unicode.
            SourceError: The tokenizer fails, for example at a special token that its file names and does not hold.
        """
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError(f"the text {text!r:.80} holds half of a surrogate pair, which is not a character. Remove it.")
        try:
            encoding = self.tokenizer.encode(text, add_special_tokens=special)
        except BaseException as error:  # as in `_stored`
            raise self._damaged(error) from None
        if len(encoding.tokens) != len(encoding.ids):  # its post-processor names pieces without their ids
            raise self._damaged(
                ValueError(f"it gives {text[:20]!r} {len(encoding.ids)} ids and {len(encoding.tokens)} pieces")
            )
        marks = [
            mark != 0 and span == (0, 0) for mark, span in zip(encoding.special_tokens_mask, encoding.offsets, strict=True)
        ]
        return Encoded(list(encoding.ids), list(encoding.tokens), list(encoding.offsets), marks)

    def near(self, text: str) -> str:
        """Pieces a person may have meant by `text`, with their ids."""
        stem = text.strip().lstrip("Ġ▁ ")
        forms = dict.fromkeys(prefix + form for form in (stem, stem.lower(), stem.title()) for prefix in PREFIXES)
        pieces = [f"{form!r} ({self.id(form)})" for form in forms if form and self.id(form) is not None]
        return f"Near pieces: {', '.join(pieces)}." if pieces else "No near pieces."


def _as_added_text(token: RustTokenizer) -> AddedText:
    """A `tokenizers.AddedToken` as the settings hold one."""
    return AddedText(token.content, token.special, token.normalized, token.lstrip, token.rstrip, token.single_word)


@lru_cache(maxsize=4)
def _read_tokenizer(
    path: Path, changed: int, added: tuple[AddedText, ...], building: Building | None
) -> tuple[RustTokenizer, str | None]:
    """The tokenizer of a file, and the pad token of the padding that the file stores.

    A large vocabulary takes a second or more to read, and several stages look at it.
    """
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_buffer(path.read_bytes())  # from_file takes no path that is not UTF-8
    padding = tokenizer.padding
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if building is not None:
        rebuild(tokenizer, building)
    tokenizer.add_tokens([AddedToken(**asdict(token)) for token in added])
    return tokenizer, None if padding is None else str(padding["pad_token"])
