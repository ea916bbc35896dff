"""Reads JSON that somebody else wrote. No other module parses a user's JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeGuard

from jaxconv.errors import SourceError
from jaxconv.file_errors import unreadable
from jaxconv.storage import File

Unchecked: TypeAlias = Any  # a value that somebody else wrote and nobody has looked at yet
JsonObject: TypeAlias = Mapping[str, Unchecked]
JsonDict: TypeAlias = dict[str, Unchecked]
Pairs: TypeAlias = list[tuple[str, Unchecked]]


def parse_json(raw: bytes | str, name: str, remedy: str, pairs: Callable[[Pairs], object] | None = None) -> Unchecked:
    """Parses one JSON document.

    Args:
        raw: The document; bytes are UTF-8, with or without a byte order mark, as transformers reads them.
        name: What the document is called in an error message.
        remedy: The sentence that ends an error message: what to do about a damaged document.
        pairs: Builds each object from its (key, value) pairs; a dict by default.

    Raises:
        SourceError: The document is not JSON in UTF-8, is nested too deeply, or holds a number that is too long.
    """
    try:
        text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
        return json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{name} is not valid JSON ({error}). {remedy}") from None


def read_json(path: File, remedy: str = "Download it again.") -> Unchecked:
    """The JSON document of a file, or None if the file does not exist.

    Args:
        path: The file.
        remedy: What to do about a damaged file, for the error message.

    Raises:
        SourceError: The file cannot be read, or is not JSON.
    """
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from None
    return parse_json(raw, str(path), remedy)


def read_optional_object(path: File, remedy: str = "Download it again.") -> JsonDict | None:
    """The JSON object of a file, or None if the file does not exist.

    Args:
        path: The file.
        remedy: What to do about a damaged file, for the error message.

    Raises:
        SourceError: The file cannot be read, is not JSON, or holds something other than an object.
    """
    document = read_json(path, remedy)
    if document is not None and not isinstance(document, dict):
        raise SourceError(f"{path} holds a JSON {type(document).__name__}; expected an object. {remedy}")
    return document


def read_object(path: File, purpose: str) -> JsonDict:
    """The JSON object of a file that must exist.

    Args:
        path: The file.
        purpose: What the file is, for the error message ("the model's configuration").

    Raises:
        SourceError: The file is missing, cannot be read, is not JSON, or holds something other than an object.
    """
    document = read_optional_object(path)
    if document is None:
        raise SourceError(f"{path.parent} has no {path.name}; expected {purpose}. Pass --base with a model that has it.")
    return document


def is_finite_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number that a float can hold. JSON's whole numbers may be longer than any float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def dump_json(document: object) -> bytes:
    """A JSON document as jaxconv writes it: indented, UTF-8, with a final newline."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
