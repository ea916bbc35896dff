"""Checks the arguments of the public functions against their annotations, in the caller's terms."""

from __future__ import annotations

import difflib
import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxconv.errors import JaxconvError, UsageError
from jaxconv.storage import in_users_terms

P = ParamSpec("P")
R = TypeVar("R")
NAMES: Mapping[object, str] = {
    str: "a string", Path: "a path", int: "a whole number", float: "a number", bool: "True or False", type(None): "None",
}  # fmt: skip


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A sentence that names the known words most like an unknown one, with a space before it; empty without one.

    Args:
        word: What the caller wrote.
        known: The words there are.
    """
    lowered = word.lower()
    containing = [name for name in known if len(lowered) > 2 and lowered in name]
    near = containing or difflib.get_close_matches(lowered, known, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(near[:3])}?" if near else ""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A public function whose calls are checked before they run.

    Annotations of strings, numbers, paths, functions, mappings, sequences and tuples of them and None are checked; others are
    not.

    Raises (the decorated function):
        UsageError: A parameter is unknown or missing, or an argument has the wrong type.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            known = ", ".join(signature.parameters)
            raise UsageError(f"{function.__name__}: {error}. Its parameters are: {known}.") from None
        hints = _hints(function)
        for name, value in bound.arguments.items():
            if name in hints and not _fits(value, hints[name]):
                raise UsageError(
                    f"{function.__name__}: {name} is {value!r:.60}; expected {_describe(hints[name])}."
                    + (f" For one entry write [{value!r:.60}]." if isinstance(value, str) else "")
                )
        try:
            return function(*args, **kwargs)
        except JaxconvError as error:
            error.args = tuple(in_users_terms(part) if isinstance(part, str) else part for part in error.args)
            raise

    return call


@functools.cache
def _hints(function: Callable[..., object]) -> Mapping[str, object]:
    return get_type_hints(function)


def _fits(value: object, hint: object) -> bool:
    """Whether a value has the annotated type; annotations that are not of the known kinds always fit."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in args)
    if origin is Sequence:
        return (
            isinstance(value, Sequence)
            and not isinstance(value, str | bytes)
            and all(_fits(entry, args[0]) for entry in value)
        )
    if origin is tuple:
        return isinstance(value, tuple | list) and len(value) == len(args) and all(map(_fits, value, args))
    if hint is bool or hint is int:
        return type(value) is hint
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is Callable:
        return callable(value)
    if origin is Mapping:
        return isinstance(value, Mapping)
    return isinstance(value, hint) if isinstance(hint, type) and hint in NAMES else True


def _describe(hint: object) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in args)
    if origin is Sequence:
        return f"a list, each entry {_describe(args[0])}"
    if origin is tuple:
        return f"a pair of {' and '.join(_describe(entry) for entry in args)}"
    if origin is Callable:
        return "a function"
    if origin is Mapping:
        return "a dictionary"
    return NAMES.get(hint, getattr(hint, "__name__", str(hint)))
