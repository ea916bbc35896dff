"""The tokenizer's files of the output against the source's, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jaxconv.errors import SourceError
from jaxconv.json_files import JsonObject
from jaxconv.model import Model
from jaxconv.sources.assets import read_copied
from jaxconv.text.chat_templates import displaced_templates, file_of
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.verification.output import Output, read_object
from jaxconv.verification.quantisation import COMPANIONS, check_companions

SETTINGS = "tokenizer_config.json"
NAMED_TEMPLATE = file_of("jaxconv_score")  # what CrossEncoder renders
ABSENT = object()


def check_tokenizer(model: Model, output: Output) -> Iterator[str]:
    """What is wrong with the tokenizer's files. A pad token may be added, and templates moved into files of their own.

    Args:
        model: The source, with the original files.
        output: The output, with their copies.
    """
    source, copied = read_copied(model.source.assets, pictures=model.whole is None), read_copied(output.folder)
    moved = displaced_templates(source)
    if model.packed is not None:
        yield from check_companions(model, output)
        source, copied = _without_companions(source), _without_companions(copied)
    for name in sorted(source.keys() - copied.keys()):
        yield f"{name} of the source is missing from the output."
    for name in sorted((source.keys() & copied.keys()) - {SETTINGS}):
        if source[name] != copied[name]:
            yield f"{name} differs from the source's."
    for name in sorted(copied.keys() - source.keys() - {SETTINGS, NAMED_TEMPLATE}):
        if copied[name] != moved.get(name):
            yield f"{name} is in the output and not in the source."
    for name in sorted(moved.keys() - copied.keys()) if NAMED_TEMPLATE in copied else ():
        yield f"{name} is missing: transformers ignores the template in {SETTINGS} beside {NAMED_TEMPLATE}."
    yield from _check_settings(model.source.assets / SETTINGS, output.folder / SETTINGS)
    yield from _check_pad_token(model, output)


def _without_companions(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name not in COMPANIONS}


def _check_settings(source: Path, output: Path) -> Iterator[str]:
    """tokenizer_config.json: the same keys, and a pad token where the source has none that can be used."""
    before, after = read_object(source) or {}, read_object(output) or {}
    for key in sorted(before.keys() | after.keys()):
        if before.get(key, ABSENT) == after.get(key, ABSENT) or (key == "pad_token" and not _has_pad_token(source.parent)):
            continue
        yield f"{SETTINGS} has {_shown(key, after)}; the source has {_shown(key, before)}."


def _shown(key: str, table: JsonObject) -> str:
    return f"{key} {table[key]!r:.200}" if key in table else f"no {key}"


def _has_pad_token(assets: Path) -> bool:
    """Whether the tokenizer has a pad token with a row of its own; the embedding is as long as the vocabulary at most."""
    return _pad_id(assets) is not None


def _pad_id(assets: Path) -> int | None:
    vocabulary = Vocabulary(assets)
    text = vocabulary.special_tokens.get("pad_token")
    return None if text is None else vocabulary.id(text)


def _check_pad_token(model: Model, output: Output) -> Iterator[str]:
    if not (output.folder / "tokenizer.json").is_file():
        return
    try:
        pad = _pad_id(output.folder)
    except SourceError as error:
        yield str(error)
        return
    pad = model.config.get("pad_token_id") if pad is None else pad
    actual = output.config.get("pad_token_id")
    if actual != pad:
        yield f"config.json has pad_token_id {actual}; the tokenizer's pad token has the id {pad}."
