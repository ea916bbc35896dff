"""Which modules a list of names means, in the ways of the readers that evaluate such lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from jaxconv.errors import SourceError

REGEX = "re:"


def exactly(module: str, entries: Iterable[str]) -> bool:
    """Whether a list names a module: full names alone (vLLM: fp8).

    Args:
        module: The module's full name.
        entries: The list.
    """
    return module in entries


def exactly_or_regex(module: str, entries: Iterable[str]) -> bool:
    """Whether a list names a module: full names, or patterns after `re:` that match from the start.

    vLLM and compressed-tensors match so.

    Args:
        module: The module's full name.
        entries: The list.

    Raises:
        SourceError: A pattern is not a regular expression.
    """
    return any(_regex(entry, module) if entry.startswith(REGEX) else entry == module for entry in entries)


def containing(module: str, entries: Iterable[str]) -> bool:
    """Whether a list names a module: parts of names, wherever they stand (vLLM: awq).

    Args:
        module: The module's full name.
        entries: The list.
    """
    return any(entry in module for entry in entries)


def containing_or_wildcard(module: str, entries: Iterable[str]) -> bool:
    """Whether a list names a module: parts of names, or shell patterns of whole names (vLLM: modelopt).

    Args:
        module: The module's full name.
        entries: The list.
    """
    entries = tuple(entries)
    return containing(module, entries) or any(fnmatchcase(module, entry) for entry in entries)


def _regex(entry: str, module: str) -> bool:
    try:
        return re.match(entry.removeprefix(REGEX), module) is not None
    except re.error as error:
        raise SourceError(
            f"quantization_config has the pattern {entry!r}, which is not a regular expression: {error}."
        ) from error
