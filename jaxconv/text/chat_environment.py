"""The Jinja environment of transformers' chat templates, setting for setting, and a bounded rendering in it.

Equals `_cached_compile_jinja_template` of transformers 5.23.0, utils/chat_template_utils.py. This module imports nothing of
jaxconv: it is also run as a script, which renders a template that nobody has tried yet within limits of memory and time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

Variables: TypeAlias = Mapping[str, Any]  # what a template is rendered with
Message: TypeAlias = dict[str, Any]  # JSON between this process and the one that tries a template

# A prompt is never longer than this and forty times the texts that it is rendered with.
MAX_CHARACTERS = 1_000_000
CHARACTERS_PER_CHARACTER = 40
# What a template may use the first time it is rendered, in a process of its own.
TRIAL_SECONDS = 2
TRIAL_BYTES = 1 << 30


class RenderingError(Exception):
    """A template that cannot be parsed or rendered."""


class _Generation(Extension):
    """`{% generation %}`, which marks the assistant's words for training and renders its body."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> str:
        return str(caller())


class _TemplateDict:
    """`dict` of a template, without the attributes of Python's class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _TemplateNamespace(Namespace):
    """`namespace` of a template, which takes no name that starts with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        Namespace.__setitem__(self, name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that starts with an underscore, such as {name!r}")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


@cache
def environment() -> ImmutableSandboxedEnvironment:
    """The environment; templates are compiled in it once."""
    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    jinja.filters["tojson"] = _tojson
    jinja.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_TemplateDict(), namespace=_TemplateNamespace
    )
    return jinja


@lru_cache(16)
def _compiled(template: str) -> Template:
    """A template that thousands of pairs are rendered with is compiled once."""
    return environment().from_string(template)


def render_variables(template: str, variables: Variables) -> str:
    """Renders a template.

    Args:
        template: The text of the template.
        variables: What it may read. Their text also sets the longest result that is let through.

    Raises:
        RenderingError: The template has a syntax error, fails, or renders too much text.
    """
    limit = MAX_CHARACTERS + CHARACTERS_PER_CHARACTER * len(str(variables))
    pieces, length = [], 0
    try:
        for piece in _compiled(template).generate(dict(variables)):
            pieces.append(piece)
            length += len(piece)
            if length > limit:
                raise RenderingError(f"it renders more than {limit:,} characters")
    except RenderingError:
        raise
    except Exception as error:  # a template is a program, and may raise whatever a program may
        raise RenderingError(_described(error)) from None
    return "".join(pieces)


def undeclared_variables(template: str) -> tuple[frozenset[str], frozenset[str]]:
    """The variables that a template expects, by its syntax tree.

    Args:
        template: The text of the template.

    Returns:
        The names that it reads without having set them on every way; of these, the names that it can do without: those
        that it asks about (`is defined`, `default`), and those that it sets on some way.

    Raises:
        RenderingError: The template has a syntax error.
    """
    try:
        tree = environment().parse(template)
        names = frozenset(find_undeclared_variables(tree))
    except Exception as error:  # TemplateSyntaxError; RecursionError where it is nested too deeply
        raise RenderingError(_described(error)) from None
    tests = [test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined")]
    tests += [used.node for used in tree.find_all(nodes.Filter) if used.name in ("default", "d") and used.node is not None]
    optional = {node.name for node in tests if isinstance(node, nodes.Name)}
    optional |= {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    return names, frozenset(optional) & names


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a template that was tried in a process of its own.

    Attributes:
        variables: The names that the template reads without setting them.
        optional: Of these, the names that it asks about and so can do without.
        results: Of each request the texts, or what went wrong.
    """

    variables: frozenset[str]
    optional: frozenset[str]
    results: tuple[list[str] | str, ...]

    def rendered(self, request: int) -> list[str]:
        """The texts of one request. Raises `RenderingError` if it failed."""
        result = self.results[request]
        if isinstance(result, str):
            raise RenderingError(result)
        return result


def try_template(template: str, requests: Sequence[tuple[str, Sequence[Variables]]]) -> Trial:
    """Parses and renders templates that may do anything, within TRIAL_SECONDS and TRIAL_BYTES, in a process of its own.

    Args:
        template: The template whose variables are wanted.
        requests: Templates and the variables of each of their renderings.

    Returns:
        What came of it.

    Raises:
        RenderingError: The template has a syntax error, or they take too much time or memory.
    """
    request = {"template": template, "requests": [[text, list(map(dict, many))] for text, many in requests]}
    command = [sys.executable, "-P", str(Path(__file__))]
    try:
        done = subprocess.run(
            command, input=json.dumps(request).encode(), capture_output=True, timeout=15 * TRIAL_SECONDS, check=False
        )
        answer: Message = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):  # ValueError: the system ended the process
        raise RenderingError(f"it takes more than {TRIAL_SECONDS} seconds or {TRIAL_BYTES >> 20} MiB") from None
    if "error" in answer:
        raise RenderingError(str(answer["error"]))
    return Trial(frozenset(answer["variables"]), frozenset(answer["optional"]), tuple(answer["results"]))


def _described(error: BaseException) -> str:
    """What went wrong, on one line."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    line = getattr(error, "lineno", None)
    kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
    return kind + (text or "no reason given").rstrip(".") + (f" (line {line})" if line else "")


def _limit() -> None:
    """Bounds this process. There are no such limits on Windows, where the caller's timeout is what remains."""
    try:
        import resource
    except ImportError:
        return
    for kind, value in ((resource.RLIMIT_CPU, TRIAL_SECONDS), (resource.RLIMIT_AS, TRIAL_BYTES)):
        try:
            resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))
        except (ValueError, OSError):  # a system that sets no such limit
            continue


def _result(template: str, renderings: Sequence[Variables]) -> list[str] | str:
    try:
        return [render_variables(template, variables) for variables in renderings]
    except RenderingError as error:
        return str(error)


def _main() -> None:
    """`try_template` of the request on standard input, as JSON on standard output."""
    request = json.loads(sys.stdin.buffer.read())
    _limit()
    try:
        variables, optional = undeclared_variables(request["template"])
        answer: Message = {"variables": sorted(variables), "optional": sorted(optional)}
        answer["results"] = [_result(*pair) for pair in request["requests"]]
    except RenderingError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
