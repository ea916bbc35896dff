"""The template of the output: whether it renders, and whether it is the one that the caller names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxconv.errors import SourceError, UsageError
from jaxconv.text.chat_environment import RenderingError, render_variables, undeclared_variables
from jaxconv.text.prompt import render, variables_of
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.verification.claims import Expected
from jaxconv.verification.output import Output
from jaxconv.verification.pairs import Pairs

TEMPLATE = "score_template.jinja"


def check_template(output: Output) -> Iterator[str]:
    """Whether there is a template that renders, with the query and the document."""
    path = output.folder / TEMPLATE
    if not path.is_file():
        yield f"there is no {TEMPLATE}, which vllm serve takes as --chat-template."
        return
    query, document = "jaxconv-query", "jaxconv-document"
    try:
        prompt = render(path.read_text("utf-8"), query, document)
    except UsageError as error:
        yield f"{TEMPLATE}: {error}"
        return
    except UnicodeDecodeError as error:
        yield f"{TEMPLATE} cannot be rendered: it is not UTF-8 ({error})."
        return
    missing = [word for word, text in (("query", query), ("document", document)) if text not in prompt]
    if missing:
        yield f"{TEMPLATE} renders without the {' and the '.join(missing)}."


def check_claimed_template(output: Output, assets: Path, expected: Expected, pairs: Pairs) -> Iterator[str]:
    """Whether the output's template gives the token ids of the template that the caller names.

    The caller's template is rendered as it stands, with its own variables, and never through the preamble that the
    conversion puts before it.

    Args:
        output: The output.
        assets: The directory of the source's tokenizer.
        expected: What the output must be.
        pairs: The pairs that are rendered.
    """
    if expected.template is None:
        return
    stored, vocabulary = (output.folder / TEMPLATE).read_text("utf-8"), Vocabulary(assets)
    try:
        tokens = Vocabulary(output.folder).special_tokens
    except SourceError:  # a finding of the tokenizer's files
        return
    for query, document in pairs:
        try:
            claimed = _render_claimed(expected, query, document, tokens)
        except RenderingError as error:
            yield f"the template that was named cannot be rendered: {error}."
            return
        ids = vocabulary.ids(render(stored, query, document, special_tokens=tokens))
        # A prompt that begins with what the tokenizer adds anyway is stored without it.
        if ids not in (vocabulary.ids(claimed), vocabulary.ids(claimed, special=False)):
            yield (
                f"{TEMPLATE} gives another prompt than the template that was named: "
                f"{render(stored, query, document, special_tokens=tokens)!r:.200} instead of {claimed!r:.200}."
            )
            return


def _render_claimed(expected: Expected, query: str, document: str, tokens: Mapping[str, str]) -> str:
    """The prompt of a pair by the caller's template, over messages or over query, document and instruction."""
    template = expected.template or ""
    variables: dict[str, object] = {**tokens, "query": query, "document": document}
    if expected.instruction is not None:
        variables["instruction"] = expected.instruction
    if "messages" in undeclared_variables(template)[0]:
        variables = variables_of(query, document, expected.instruction, tokens)
    return render_variables(template, variables)
