"""Targets of the text: tokenizer.json, and chat templates that a grammar makes."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

from jaxconv.presets import presets
from jaxconv.text import tokenizer
from jaxconv.text.chat_environment import render_variables, try_template, undeclared_variables
from jaxconv.text.chat_templates import templates_in_files
from jaxconv.text.pad_token import choose_pad_token
from jaxconv.text.prompt import variables_of, vllm_template
from jaxconv.text.special_tokens import check_nothing_appended
from tests.fuzz.json_values import damaged_json
from tests.fuzz.target import Target, damaged_bytes

SECONDS = 0.5  # of processor time that a template may take in this process before it is given to one with limits
TEXTS = ("yes no", "", "a\n\t<s>b</s>", "ünï ▁\U0001f600 0123")
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
VARIABLES = (
    variables_of("who?", "<|im_end|>\n{{ x }}", special_tokens=NAMES),
    {**NAMES, "query": "who?", "document": "d" * 300, "instruction": "Judge"},
)


def read_tokenizer(folder: Path, damaged: Path) -> None:
    """The tokenizer, its special tokens, and a few texts."""
    tokenizer._read_tokenizer.cache_clear()
    vocabulary = tokenizer.Vocabulary(damaged.parent)
    for text in TEXTS:
        vocabulary.tokenize(text)
    check_nothing_appended(vocabulary)
    choose_pad_token(vocabulary, {vocabulary.unknown or 0}, len(vocabulary))
    vocabulary.beyond(8)
    vocabulary.near(" yes")
    vocabulary.piece(len(vocabulary) - 1)


class _TooLong(BaseException):
    """No Exception, which `render_variables` would take for one of the template's."""


def read_template(folder: Path, damaged: Path) -> None:
    """A template as its first trial takes it. One that takes long is tried in a process with limits, as convert does."""
    try:
        signal.signal(signal.SIGPROF, _stop)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        _render(damaged)
    except _TooLong:
        read_limited(folder, damaged)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _stop(*_: object) -> None:
    raise _TooLong


def _render(damaged: Path) -> None:
    [template] = templates_in_files({"chat_template.jinja": damaged.read_bytes()}).values()
    reads_messages = "messages" in undeclared_variables(template)[0]
    render_variables(template, VARIABLES[0 if reads_messages else 1])
    vllm_template(template)


def read_limited(folder: Path, damaged: Path) -> None:
    """A template in a process of its own, with the limits of convert."""
    [template] = templates_in_files({"chat_template.jinja": damaged.read_bytes()}).values()
    try_template(template, [(template, VARIABLES)]).rendered(0)


NUMBERS = ("0", "-1", "1", "3", "1.5", "10**3", "10**400", "none", "true")
HUGE = ("10**10", "10**9", "'a' * 10**10", "'%1000000000d' % 1", "range(10**10) | list", "'a' * 2**28", "range(99999999)")
ATTRIBUTES = ("content", "role", "__class__", "__init__.__globals__", "mro()", "format", "0", "items()", "_x", "pop", "join")
FILTERS = (
    "upper", "trim", "length", "tojson", "join", "list", "first", "last", "default('x')", "replace('a', 'b')", "e", "safe",
    "map(attribute='content')", "selectattr('role', 'equalto', 'query')", "groupby('role')", "batch(2)", "slice(2)", "sort",
    "format(1)", "int", "float", "round", "sum", "unique", "reverse", "random", "wordwrap(1)", "indent(2)", "center(9)",
    "truncate(3)", "urlize", "xmlattr", "dictsort", "attr('__class__')", "pprint", "string", "tojson(indent=2)", "nosuch",
)  # fmt: skip
TESTS = ("defined", "none", "string", "mapping", "sameas none", "in [1]", "divisibleby 0", "iterable", "nosuch", "eq 1")
BINARY = ("+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "and", "or", "in", "not in")
NAMED = (
    "messages",
    "query",
    "document",
    "instruction",
    "bos_token",
    "tools",
    "loop",
    "self",
    "namespace",
    "cycler",
    "x",
    "ns",
)


def _atom(dice: random.Random) -> str:
    kind = dice.randrange(12)
    if kind < 5:
        return dice.choice(NAMED)
    if kind < 7:
        return dice.choice(("'a'", "''", "'%s'", "'{0.__class__}'", "'<|im_start|>'", "[]", "{}", "[1, 'b']", "{'a': 1}"))
    if kind < 10:
        return dice.choice(NUMBERS)
    if kind == 10:
        return dice.choice(
            ("raise_exception('no')", "strftime_now('%Y')", "range(5)", "dict(a=1)", "namespace(x=1)", "lipsum()")
        )
    return dice.choice(HUGE) if dice.random() < 0.005 else f"messages[{dice.randrange(-1, 3)}]"


def _expression(dice: random.Random, depth: int = 0) -> str:
    if depth > 3 or dice.random() < 0.3:
        return _atom(dice)
    inner = _expression(dice, depth + 1)
    shapes: tuple[Callable[[], str], ...] = (
        lambda: f"{inner}.{dice.choice(ATTRIBUTES)}",
        lambda: f"{inner} | {dice.choice(FILTERS)}",
        lambda: f"({inner} is {dice.choice(TESTS)})",
        lambda: f"({inner} {dice.choice(BINARY)} {_expression(dice, depth + 1)})",
        lambda: f"{inner}[{_expression(dice, depth + 1)}]",
        lambda: f"{inner}[:{_atom(dice)}]",
        lambda: f"({inner} if {_atom(dice)} else {_atom(dice)})",
        lambda: f"{inner}({_atom(dice)})",
        lambda: f"'{{}}'.format({inner})",
    )
    return dice.choice(shapes)()


def _statement(dice: random.Random, depth: int = 0) -> str:
    if depth > 3:
        return "{{ query }}"
    body = "".join(_statement(dice, depth + 1) for _ in range(dice.randrange(3)))
    expression = _expression(dice)
    shapes = (
        "{{{{ {0} }}}}", "{{{{- {0} -}}}}", "{{{{ {0} }}}}", "{{% set x = {0} %}}", "{{%- set x %}}{1}{{% endset -%}}",
        "{{% if {0} %}}{1}{{% else %}}no{{% endif %}}", "{{% for x in {0} %}}{1}{{% endfor %}}",
        "{{% for message in messages %}}{{{{ message['role'] }}}}{1}{{% endfor %}}",
        "{{% set ns = namespace(x=0) %}}{{% set ns.x = {0} %}}{1}", "{{% macro m(x) %}}{1}{{% endmacro %}}{{{{ m({0}) }}}}",
        "{{% generation %}}{1}{{% endgeneration %}}", "{{# {0} #}}",
        "{{% for x in [1] recursive %}}{1}{{{{ loop(x) }}}}{{% endfor %}}",
        "{{% break %}}", "{{% include {0} %}}", "{{% filter upper %}}{1}{{% endfilter %}}", "{{% raw %}}{0}{{% endraw %}}",
        "{{% block b %}}{1}{{% endblock %}}", "{{% call m({0}) %}}{1}{{% endcall %}}", "text\n", "{{% import 'os' as os %}}",
        "{{% with x = {0} %}}{1}{{% endwith %}}", "{{% autoescape true %}}{1}{{% endautoescape %}}",
    )  # fmt: skip
    return dice.choice(shapes).format(expression, body)


@cache
def _real() -> tuple[bytes, ...]:
    return tuple(vllm_template(preset.template, preset.instruction).encode() for preset in presets() if preset.template)


def damaged_template(raw: bytes, dice: random.Random) -> bytes:
    """A preset's template with damage, or a template that nobody wrote."""
    if dice.random() < 0.3:
        return damaged_bytes(dice.choice((raw, *_real())), dice)
    return "".join(_statement(dice) for _ in range(dice.randint(1, 4))).encode()


TEXT_TARGETS: dict[str, Target] = {
    "tokenizer.json": Target("tokenizers", read_tokenizer, 90, ("**/tokenizer.json",), damaged_json),
    "chat template": Target("template", read_template, 70, ("*.jinja",), damaged_template, limited=read_limited),
}
