"""Values of a quantization_config, checked as they are read: every message names the key, the value and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from jaxconv.errors import SourceError

JsonObject: TypeAlias = Mapping[str, object]


def text(config: JsonObject, key: str, allowed: Mapping[str, object] | tuple[str, ...]) -> str:
    """A string that must be one of several words, without regard to case.

    Args:
        config: The object.
        key: The string's key.
        allowed: The words.

    Returns:
        The word as `allowed` spells it.

    Raises:
        SourceError: The value is something else, or the key is absent.
    """
    value = config.get(key)
    for word in allowed:
        if isinstance(value, str) and value.lower() == word.lower():
            return word
    raise SourceError(f"quantization_config has {value!r} as {key}; expected one of: {', '.join(allowed)}.")


def whole(config: JsonObject, key: str, default: int | None = None, minimum: int = 1) -> int:
    """A whole number.

    Args:
        config: The object.
        key: The number's key.
        default: What an absent key means; if None, it is an error.
        minimum: The smallest number allowed.

    Raises:
        SourceError: The value is something else.
    """
    value = config.get(key, default)
    if type(value) is not int or value < minimum:
        raise SourceError(f"quantization_config has {value!r} as {key}; expected a whole number of at least {minimum}.")
    return value


def flag(config: JsonObject, key: str, default: bool) -> bool:
    """True or false.

    Args:
        config: The object.
        key: The flag's key.
        default: What an absent key and null mean.

    Raises:
        SourceError: The value is something else.
    """
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise SourceError(f"quantization_config has {value!r} as {key}; expected true or false.")
    return default if value is None else value


def strings(config: JsonObject, key: str) -> tuple[str, ...] | None:
    """A list of strings; None where the key is absent or null.

    Args:
        config: The object.
        key: The list's key.

    Raises:
        SourceError: The value is something else.
    """
    value = config.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise SourceError(
            f"quantization_config has {value!r:.120} as {key}; expected a list of module names. Without a proper list every "
            f'reader guesses what stays plain: write it as a JSON list, as in "{key}": ["lm_head"].'
        )
    return tuple(value)


def section(config: JsonObject, key: str) -> JsonObject | None:
    """An object; None where the key is absent or null.

    Args:
        config: The object around it.
        key: Its key.

    Raises:
        SourceError: The value is something else.
    """
    value = config.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise SourceError(f"quantization_config has {value!r:.120} as {key}; expected an object.")
    return value


def pair(config: JsonObject, key: str) -> tuple[int, int] | None:
    """Two whole numbers above zero; None where the key is absent or null.

    Args:
        config: The object.
        key: The key of the two.

    Raises:
        SourceError: The value is something else.
    """
    value = config.get(key)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(n) is int and n > 0 for n in value):
        raise SourceError(f"quantization_config has {value!r:.120} as {key}; expected two whole numbers, as in [128, 128].")
    return value[0], value[1]


def with_entry(config: JsonObject, key: str, entry: str) -> dict[str, object] | None:
    """The object with an entry at the end of one of its lists; None where the list has the entry already.

    Args:
        config: The object.
        key: The list's key; an absent list is created.
        entry: The entry.

    Raises:
        SourceError: The value is not a list of strings.
    """
    entries = strings(config, key) or ()
    return None if entry in entries else {**config, key: [*entries, entry]}
