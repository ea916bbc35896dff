"""The prompt as one Jinja template that vLLM's `--chat-template` takes, and its rendering.

vLLM renders it with messages of the roles "query" and "document", and once at start-up with a plain user
message: a template must not insist. Jinja drops one final newline of a template, so one that a prompt ends
with is written as an expression.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from jaxconv.errors import UsageError

# Brings what vLLM passes (messages) into the variables of a prompt.
PREAMBLE = """\
{%- set ns = namespace(query="", document="") -%}
{%- for message in messages -%}
{%- if message["role"] == "query" -%}{%- set ns.query = message["content"] -%}{%- endif -%}
{%- if message["role"] == "document" -%}{%- set ns.document = message["content"] -%}{%- endif -%}
{%- endfor -%}
{%- set query = ns.query -%}
{%- set document = ns.document -%}
"""
TEMPLATE_NAME = "score_template.jinja"
PLAIN = "{{- query -}}{{- document -}}"  # what vLLM does without a template


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt of a reranker: a Jinja template over `query`, `document` and `instruction`.

    Attributes:
        template: The text that vLLM's `--chat-template` takes.
        known: False for the plain query-then-document pair that stands in for a missing template.
        instruction: The default instruction of the template.
        max_length: The longest prompt in tokens that the authors' code lets through.
        caveat: Where the token ids of the prompt are not those of the authors' code.
    """

    template: str
    known: bool = True
    instruction: str | None = None
    max_length: int | None = None
    caveat: str | None = None


def vllm_template(body: str, instruction: str | None = None) -> str:
    """A template over `query`, `document` and `instruction` as vLLM renders it, every newline of `body` kept.

    `instruction` is the default of that variable. A body that reads `messages` itself is kept as it is.
    """
    if "messages" in body:
        return body
    text = body.rstrip("\n")
    newlines = len(body) - len(text)
    ending = "{{ " + json.dumps("\n" * newlines) + " }}" if newlines else ""
    default = ""
    if instruction is not None:
        default = "{%- set instruction = instruction | default(" + json.dumps(instruction, ensure_ascii=False) + ") -%}\n"
    # {{- "" }} ends the trimming of the preamble, so that white space at the start of the body stays.
    return PREAMBLE + default + '{{- "" }}' + text + ending


@cache
def _environment() -> Any:
    """Jinja as transformers and vLLM set it up for chat templates."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])


@lru_cache(8)
def _compiled(template: str) -> Any:
    """A template that thousands of pairs are rendered with is compiled once."""
    return _environment().from_string(template)


def render(template: str, query: str, document: str, instruction: str | None = None) -> str:
    """The prompt of one pair, as vLLM renders it. Raises `UsageError` for a template that Jinja rejects."""
    from jinja2 import TemplateError

    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    extra = {} if instruction is None else {"instruction": instruction}
    try:
        return str(_compiled(template).render(messages=messages, add_generation_prompt=False, **extra))
    except TemplateError as error:
        raise UsageError(f"the template cannot be rendered: {error}. See `jaxconv presets` for ones that can.") from None


def read_template(path: str | Path | None) -> str | None:
    """The text of a `--template` file, or None without one.

    Raises:
        UsageError: The file cannot be read or is not UTF-8.
    """
    if path is None:
        return None
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--template {path} cannot be read ({error}); expected a Jinja file in UTF-8.") from None
