"""The prompt as one Jinja template that vLLM's `--chat-template` takes, its checks and its rendering.

There are two kinds of template. One reads `messages`, as chat templates do: vLLM and sentence-transformers hand in one
message of the role "query" and one of the role "document". The other reads `query`, `document` and `instruction`, and is
stored behind a preamble that takes these out of the messages. Which kind a template is, its syntax tree says.

vLLM also renders once at start-up with a plain user message: a stored template must not insist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxconv.errors import RefusedError, UsageError
from jaxconv.json_files import JsonDict
from jaxconv.text.pictures import side_macro

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
WITH_PARTS = PREAMBLE.replace('message["content"]', 'side(message["content"])')
TEMPLATE_NAME = "score_template.jinja"
PLAIN = "{{- query -}}{{- document -}}"  # what vLLM does without a template
# What apply_chat_template hands to a template that reads messages, and vLLM's field `instruction` of a request.
MESSAGE_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt", "instruction")
PAIR_VARIABLES = ("query", "document", "instruction")
NO_GENERATION_PROMPT = "{%- set add_generation_prompt = false %}\n"
WARMUP_NOTE = (
    "{origin} fails without the roles query and document ({error}). vLLM renders it once at start-up with a plain user "
    "message, logs that as a warning with a traceback, and serves as it should."
)
GENERATION_NOTE = (
    "{origin} renders another end with add_generation_prompt, which vLLM does not set for a score; it is stored without. "
    "Take the condition out of the template if the prompt is to have that end."
)
EXAMPLE_PAIR = ("what is the capital of France?", "Paris is the capital of France.")

# A query and a document, each with another of the same length and number of words: a template that takes both in
# renders all four combinations differently.
QUERIES = ("where do kestrels nest", "where do dolphins rest")
DOCUMENTS = (
    "Falcons nest on cliffs, in towers and in the old nests of crows; they come back to a good place each year. " * 4,
    "Turtles swim in rivers, in harbours and in the warm lakes of parks; they sun on a flat stone each morning. " * 4,
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt of a reranker: a Jinja template over messages of the roles "query" and "document".

    Attributes:
        template: The text that vLLM's `--chat-template` takes.
        known: False for the plain query-then-document pair that stands in for a missing template.
        instruction: The default instruction of the template.
        max_length: The longest prompt in tokens that the authors' code lets through.
        caveat: Where the token ids of the prompt are not those of the authors' code.
        notes: What the caller should know about the template, a sentence each.
        origin: Where the template comes from: "--template", "preset", "source" (the chat template that its LogitScore record
            names) or "plain" (the pair alone).
        written: The text of --template as its author wrote it.
    """

    template: str
    known: bool = True
    instruction: str | None = None
    max_length: int | None = None
    caveat: str | None = None
    notes: tuple[str, ...] = ()
    origin: str = "plain"
    written: str | None = None


def vllm_template(body: str, instruction: str | None = None, picture: str | None = None) -> str:
    """A template over `query`, `document` and `instruction` as one over messages that renders the same characters.

    Args:
        body: The template. Every newline at its end counts: a file's last one has been taken away.
        instruction: The default of the variable `instruction`.
        picture: The text that stands for a picture, of models that read pictures: then sides may be lists of parts.

    Returns:
        The template over messages. One that reads `messages` itself is returned as it is.
    """
    if re.search(r"\bmessages\b", body):
        from jaxconv.text.chat_environment import undeclared_variables

        if "messages" in undeclared_variables(body)[0]:
            return body
    return _behind_preamble(body, instruction, picture)


def _behind_preamble(body: str, instruction: str | None, picture: str | None) -> str:
    """A template over `query`, `document` and `instruction`, which the preamble sets."""
    preamble = PREAMBLE if picture is None else side_macro(picture) + WITH_PARTS
    default = ""
    if instruction is not None:
        default = "{%- set instruction = instruction | default(" + json.dumps(instruction, ensure_ascii=False) + ") -%}\n"
    # {{- "" }} ends the trimming of the preamble, so that white space at the start of the body stays; but white space before
    # a block is only taken away where a line begins.
    indented = re.match(r"[ \t]+\{[%#]", body) is not None
    start = "{%- set query = query %}\n" if indented else '{{- "" }}'
    text = body.rstrip("\n")
    if text.endswith(("%}", "#}")):  # Jinja takes away the newline after a block
        ending = '{{ "" }}' if body != text else ""
        return preamble + default + start + body + ending
    newlines = len(body) - len(text)
    return preamble + default + start + text + ("{{ " + json.dumps("\n" * newlines) + " }}" if newlines else "")


def user_prompt(
    text: str, special_tokens: Mapping[str, str], origin: str = "--template", picture: str | None = None
) -> Prompt:
    """The prompt of a template that somebody else wrote, checked.

    Args:
        text: The file's text. Jinja drops one newline at the end of a template, so a file's last newline is not content.
        special_tokens: The special tokens by name that transformers hands to a template ("bos_token" -> "<s>").
        origin: What the template is called in messages.
        picture: The text that stands for a picture, of models that read pictures.

    Raises:
        RefusedError: The template reads a variable that nobody sets, or leaves the query or the document out.
        UsageError: It cannot be rendered, or takes too much time, memory or text.
    """
    from jaxconv.text.chat_environment import RenderingError, try_template

    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    over_messages = [variables_of(*pair, special_tokens=special_tokens) for pair in pairs]
    over_pairs = [{**special_tokens, "query": query, "document": document} for query, document in pairs]
    over_pairs.append({**over_pairs[0], "instruction": "Judge"})
    fixed = NO_GENERATION_PROMPT + text
    wrapped = _behind_preamble(text.removesuffix("\n"), None, picture)
    notes: tuple[str, ...] = ()
    try:
        requests = [(fixed, over_messages), (text, over_pairs), (wrapped, _with_instruction(over_messages))]
        generating = [{**variables, "add_generation_prompt": True} for variables in over_messages]
        warmup = [{**over_messages[0], "messages": [{"role": "user", "content": "warmup"}]}]
        trial = try_template(text, [*requests, (text, generating), (text, warmup)])
        reads_messages = "messages" in trial.variables
        _check_variables(origin, trial.variables - trial.optional, reads_messages, special_tokens)
        if reads_messages:
            template, rendered = text, trial.rendered(0)
            if trial.results[3] != rendered:
                # sentence-transformers says yes where vLLM does not
                template, notes = fixed, (GENERATION_NOTE.format(origin=origin),)
            if isinstance(trial.results[4], str):
                notes = (*notes, WARMUP_NOTE.format(origin=origin, error=trial.results[4]))
        else:
            template, rendered = wrapped, trial.rendered(1)
            if rendered != trial.rendered(2):
                raise RefusedError(
                    f"{origin} cannot be put behind the lines that take query and document out of messages: it would render "
                    "another text. Write it without block tags, or over `messages`, as a chat template is."
                )
    except RenderingError as error:
        raise _unusable(origin, error) from None
    _check_content(origin, rendered, reads_messages)
    return Prompt(template, notes=notes)


def _with_instruction(over_messages: list[JsonDict]) -> list[JsonDict]:
    return [*over_messages, {**over_messages[0], "instruction": "Judge"}]


def _check_variables(origin: str, names: frozenset[str], reads_messages: bool, special_tokens: Mapping[str, str]) -> None:
    """Raises `RefusedError` for variables that nobody sets."""
    expected = MESSAGE_VARIABLES if reads_messages else PAIR_VARIABLES
    unknown = sorted(names - set(expected) - special_tokens.keys())
    if unknown:
        others = f", and the special tokens {_listed(sorted(special_tokens))}" if special_tokens else ""
        raise RefusedError(
            f"{origin} reads {_listed(unknown)}, which nobody sets; expected {_listed(expected)}{others}. "
            "Rename the variable in the template."
        )


def _check_content(origin: str, rendered: list[str], reads_messages: bool) -> None:
    """Raises `RefusedError` for a template that leaves the query or the document out. `rendered` is [query][document]."""
    same_query = rendered[0] == rendered[2] or rendered[1] == rendered[3]
    same_document = rendered[0] == rendered[1] or rendered[2] == rendered[3]
    folded = [text.casefold() for text in rendered]
    no_query = same_query or "kestrels" not in folded[0] or "dolphins" not in folded[2]
    no_document = same_document or "falcons nest" not in folded[0] or "turtles swim" not in folded[1]
    missing = [word for word, absent in (("query", no_query), ("document", no_document)) if absent]
    if missing:
        expected = (
            'the contents of the messages whose roles are "query" and "document"'
            if reads_messages
            else "the variables {{ query }}, {{ document }} and optionally {{ instruction }}"
        )
        raise RefusedError(
            f"{origin} renders without the {' and the '.join(missing)}, "
            f"so all of them would get one score; expected {expected}."
        )


def variables_of(
    query: str,
    document: str,
    instruction: str | None = None,
    special_tokens: Mapping[str, str] | None = None,
) -> JsonDict:
    """What a stored template is rendered with by vLLM; sentence-transformers also sets `add_generation_prompt`.

    Args:
        query: The content of the message with the role "query".
        document: The content of the message with the role "document".
        instruction: Replaces the template's default.
        special_tokens: The special tokens of the tokenizer by name ("eos_token" -> "</s>").
    """
    extra = {} if instruction is None else {"instruction": instruction}
    return {
        **(special_tokens or {}),
        "messages": [{"role": "query", "content": query}, {"role": "document", "content": document}],
        "tools": None,
        "documents": None,
        "add_generation_prompt": False,
        **extra,
    }


def render(
    template: str,
    query: str,
    document: str,
    instruction: str | None = None,
    special_tokens: Mapping[str, str] | None = None,
) -> str:
    """The prompt of one pair, as vLLM and transformers render it.

    Args:
        template: A stored template, over messages.
        query: The query.
        document: The document.
        instruction: Replaces the template's default.
        special_tokens: The special tokens of the tokenizer by name ("eos_token" -> "</s>").

    Raises:
        UsageError: The template cannot be rendered.
    """
    from jaxconv.text.chat_environment import RenderingError, render_variables

    try:
        return render_variables(template, variables_of(query, document, instruction, special_tokens))
    except RenderingError as error:
        raise _unusable("the template", error) from None


def read_template(path: str | Path | None) -> str | None:
    """The text of a `--template` file, its line ends as newlines, or None without one.

    Args:
        path: The file, or None.

    Raises:
        UsageError: The file cannot be read or is not UTF-8.
    """
    if path is None:
        return None
    try:
        return Path(path).read_text("utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a null character
        raise UsageError(f"--template {path} cannot be read ({error}); expected a Jinja file in UTF-8.") from None


def _unusable(origin: str, error: Exception) -> UsageError:
    return UsageError(
        f"{origin} cannot be rendered: {error}. Mend the template; `jaxconv presets` shows ones that can be rendered."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
