"""Numbers and flags of a config.json, checked."""

from __future__ import annotations

from jaxconv.errors import SourceError
from jaxconv.json_files import JsonObject, is_finite_number

MAX_LAYERS = MAX_EXPERTS = 4096
MAX_SIZE = 1 << 31


def integer(config: JsonObject, key: str, default: int | None = None, *, limit: int = MAX_SIZE) -> int:
    """A whole number of a config.

    Args:
        config: The config, or a part of it.
        key: The number's key.
        default: What an absent key and null mean; if None, they are errors.
        limit: The largest number allowed; the smallest is 1.

    Raises:
        SourceError: The value is something else.
    """
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value <= limit:
        shown = repr(value)[:60] if key in config else "nothing"
        raise SourceError(f"config.json has {shown} as {key}; expected a whole number from 1 to {limit}.")
    return value


def number(config: JsonObject, key: str) -> float:
    """A finite number above zero.

    Args:
        config: The config, or a part of it.
        key: The number's key.

    Raises:
        SourceError: The value is something else.
    """
    value = config.get(key)
    if not is_finite_number(value) or value <= 0:
        raise SourceError(f"config.json has {value!r:.80} as {key}; expected a finite number above zero.")
    return float(value)


def flag(config: JsonObject, key: str, default: bool) -> bool:
    """True or false; null counts as false.

    Args:
        config: The config, or a part of it.
        key: The flag's key.
        default: What an absent key means.

    Raises:
        SourceError: The value is something else.
    """
    value = config.get(key, default)
    if not isinstance(value, bool | None):
        raise SourceError(f"config.json has {value!r} as {key}; expected true or false.")
    return bool(value)
