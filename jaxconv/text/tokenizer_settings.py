"""What tokenizer_config.json and special_tokens_map.json say, ranked as transformers ranks them.

Equals `_from_pretrained` of transformers 5.23.0 (tokenization_utils_base.py) and the choice of a class in
models/auto/tokenization_auto.py, as far as a folder with a tokenizer.json goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path

from jaxconv.errors import SourceError
from jaxconv.json_files import JsonObject, read_optional_object
from jaxconv.text.tokenizer_classes import ALWAYS_PLAIN, CLASS_DEFAULTS, FORCED, MODEL_CLASSES, PLAIN_CLASSES, Building

SETTINGS = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
# The names that every tokenizer hands to a chat template, if it has them.
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class AddedText:
    """A token that is matched as a whole before a text is tokenised; the flags are those of `tokenizers.AddedToken`."""

    content: str
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """The settings of a tokenizer's folder.

    Attributes:
        class_name: The tokenizer class that transformers takes.
        special_tokens: The special tokens by name that a chat template is handed, the class's own included.
        pad_file: The file whose pad_token counts: special_tokens_map.json if it is read at all, else tokenizer_config.json.
        added_tokens: The tokens that the files name, in the order in which transformers adds those that tokenizer.json
            does not have.
        decoder_tokens: Those of `added_tokens_decoder`, whose flags count even where tokenizer.json has the token.
        splits_special_tokens: Whether the text of a special token is tokenised like any other text.
        building: The settings that a class which builds the tokenizer anew reads.
        is_forced: Whether the class follows from the model type, whatever the files say.
    """

    class_name: str
    special_tokens: Mapping[str, str]
    pad_file: str
    added_tokens: tuple[AddedText, ...]
    decoder_tokens: tuple[AddedText, ...]
    splits_special_tokens: bool
    building: Building
    is_forced: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the class loads tokenizer.json as it is."""
        return self.class_name in PLAIN_CLASSES


def read_settings(directory: Path, byte_level: bool = False) -> TokenizerSettings:
    """The settings of the tokenizer of a directory.

    Args:
        directory: The directory.
        byte_level: Whether its tokenizer.json works on bytes, which a LlamaTokenizer does not.

    Raises:
        SourceError: A file is damaged, or a value in it is of the wrong type.
    """
    settings = dict(read_optional_object(directory / SETTINGS) or {})
    config = read_optional_object(directory / "config.json") or {}
    legacy = "added_tokens_decoder" not in settings
    stored = (read_optional_object(directory / SPECIAL_TOKENS_MAP) if legacy else None) or {}
    named = {**settings, **stored}
    class_name = _class_name(directory, settings, config, byte_level)
    decoder = _decoder(settings, directory)
    added: list[AddedText] = []
    special_tokens = dict(CLASS_DEFAULTS.get(class_name, {}))
    others = sorted(key for key in named if key.endswith("_token") and isinstance(named[key], str))
    for name in (name for name in dict.fromkeys((*NAMES, *others)) if name in named):
        token = _token(named[name], f"{name} in {directory / (SPECIAL_TOKENS_MAP if name in stored else SETTINGS)}")
        special_tokens.pop(name, None)
        if token is not None:
            special_tokens[name] = token.content
            added.append(token)
    added += [AddedText(text) for name, text in special_tokens.items() if name not in named]
    extra = named.get("extra_special_tokens") or named.get("additional_special_tokens") or []
    where = f"extra_special_tokens in {directory / SETTINGS}"
    if not isinstance(extra, dict | list):
        raise SourceError(f"{where} is {extra!r:.80}; expected a list or an object. Save the tokenizer again.")
    for value in extra.values() if isinstance(extra, dict) else extra:
        added += [token for token in [_token(value, where)] if token is not None]
    if isinstance(extra, dict):
        texts = {name: _token(value, where) for name, value in extra.items()}
        special_tokens |= {name: token.content for name, token in texts.items() if token is not None}
    if legacy:
        added = [*_added_by_file(directory, {token.content for token in added}), *added]
    named_texts = set(special_tokens.values())
    decoder = [replace(token, special=token.special or token.content in named_texts) for token in decoder]
    pad_file = SPECIAL_TOKENS_MAP if "pad_token" in stored else SETTINGS
    splits = settings.get("split_special_tokens") is True
    space = settings.get("add_prefix_space")
    building = Building(class_name, space if isinstance(space, bool) else None, settings.get("legacy") is True)
    forced = str(config.get("model_type")) in FORCED
    added = [*decoder, *added]
    return TokenizerSettings(
        class_name, special_tokens, pad_file, tuple(added), tuple(decoder), splits, building, forced
    )  # fmt: skip


def _class_name(directory: Path, settings: JsonObject, config: JsonObject, byte_level: bool) -> str:
    """The class that AutoTokenizer takes, in transformers 5.23."""
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if named is not None and not isinstance(named, str):
        raise SourceError(f"tokenizer_class in {directory / SETTINGS} is {named!r:.80}; expected a string.")
    model_type = str(config.get("model_type"))
    if model_type in ALWAYS_PLAIN:
        return PLAIN_CLASSES[0]
    if named is None or model_type in FORCED:
        return MODEL_CLASSES.get(model_type, PLAIN_CLASSES[0])
    name = named if named in PLAIN_CLASSES else named.removesuffix("Fast")
    return PLAIN_CLASSES[0] if name == "LlamaTokenizer" and byte_level else name


def _decoder(settings: JsonObject, directory: Path) -> list[AddedText]:
    """The entries of `added_tokens_decoder`, in the order of their ids."""
    where = f"added_tokens_decoder in {directory / SETTINGS}"
    entries = settings.get("added_tokens_decoder") or {}
    if not isinstance(entries, dict) or not all(key.isdecimal() for key in entries):
        raise SourceError(f"{where} is {entries!r:.80}; expected an object of token ids. Save the tokenizer again.")
    tokens = [_token(entries[key], f"{key} of {where}") for key in sorted(entries, key=int)]
    return [token for token in tokens if token is not None]


def _added_by_file(directory: Path, special: Set[str]) -> list[AddedText]:
    """The tokens of added_tokens.json in the order of their ids, which counts without an `added_tokens_decoder`."""
    entries = read_optional_object(directory / ADDED_TOKENS) or {}
    for text, index in entries.items():
        if not isinstance(index, int):
            raise SourceError(
                f"{text!r:.80} in {directory / ADDED_TOKENS} is {index!r:.80}; expected a token id. Save the tokenizer again."
            )
    texts = sorted(entries, key=lambda text: int(entries[text]))
    return [AddedText(text, text in special, normalized=text not in special) for text in texts]


def _token(value: object, where: str) -> AddedText | None:
    """A special token, which is stored as a string or as an object with `content`; None for null."""
    if value is None:
        return None
    content = value.get("content") if isinstance(value, dict) else value
    if not isinstance(content, str):
        raise SourceError(f"{where} is {value!r:.80}; expected the text of a token. Save the tokenizer again.")
    flags = value if isinstance(value, dict) else {}
    special = flags.get("special") is not False
    rest = {key: flags.get(key) is True for key in ("lstrip", "rstrip", "single_word")}
    return AddedText(content, special, flags.get("normalized", not special) is True, **rest)
