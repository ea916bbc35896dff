"""The chat templates of a source by name, as transformers finds them in its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from jaxconv.errors import SourceError
from jaxconv.json_files import parse_json
from jaxconv.text.tokenizer_settings import SETTINGS

DEFAULT_FILE = "chat_template.jinja"
DIRECTORY = "additional_chat_templates"
DEFAULT = "default"
REMEDY = "Download it again."


def file_of(name: str) -> str:
    """Where transformers looks for the chat template of a name."""
    return DEFAULT_FILE if name == DEFAULT else f"{DIRECTORY}/{name}.jinja"


def templates_in_files(files: Mapping[str, bytes]) -> dict[str, str]:
    """The chat templates that have a file each, by name.

    Args:
        files: The files of the source by their path from its directory.

    Raises:
        SourceError: A template is not UTF-8.
    """
    templates = {}
    for path, raw in files.items():
        directory, _, file = path.rpartition("/")
        if path == DEFAULT_FILE:
            templates[DEFAULT] = _text(raw, path)
        elif directory == DIRECTORY and file.endswith(".jinja"):
            templates[file.removesuffix(".jinja")] = _text(raw, path)
    return templates


def templates_in_settings(files: Mapping[str, bytes]) -> dict[str, str]:
    """The chat templates in tokenizer_config.json by name: one text, or a list of names and texts.

    Args:
        files: The tokenizer's files, path -> content.

    Raises:
        SourceError: The file is damaged, or the entry is of the wrong type.
    """
    if SETTINGS not in files:
        return {}
    settings = parse_json(files[SETTINGS], SETTINGS, REMEDY)
    stored = settings.get("chat_template") if isinstance(settings, dict) else None
    if stored is None:
        return {}
    if _is_text(stored):
        return {DEFAULT: stored}
    if isinstance(stored, dict):
        stored = [{"name": name, "template": text} for name, text in stored.items()]
    templates = {}
    for entry in stored if isinstance(stored, list) else [stored]:
        name, text = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not _is_text(name) or not _is_text(text):
            raise SourceError(
                f"chat_template in {SETTINGS} holds {entry!r:.80}; expected a text, or a list of names and texts. {REMEDY}"
            )
        templates[name] = text
    return templates


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a text that a file can hold: JSON may have half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def chat_templates(files: Mapping[str, bytes]) -> dict[str, str]:
    """The chat templates by name that transformers has: those in files, or, without any, those in tokenizer_config.json."""
    return templates_in_files(files) or templates_in_settings(files)


def displaced_templates(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files for the templates that only tokenizer_config.json holds, which transformers ignores beside any template file.

    Args:
        files: The tokenizer's files, path -> content.

    Returns:
        Path -> content; empty if the source has template files itself. Names that cannot be file names are left out.
    """
    if templates_in_files(files):
        return {}
    stored = templates_in_settings(files)
    return {file_of(name): text.encode() for name, text in stored.items() if name and not set(name) & set("/\\:\0")}


def _text(raw: bytes, path: str) -> str:
    try:
        return raw.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 ({error}). {REMEDY}") from None
