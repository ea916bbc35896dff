"""The template of the output: whether it renders, and whether it is the one that the output must have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from jaxconv.errors import SourceError, UsageError
from jaxconv.file_errors import reading
from jaxconv.text.chat_environment import RenderingError
from jaxconv.text.prompt import render
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.verification.claimed_prompt import ClaimedPrompt
from jaxconv.verification.output import Output
from jaxconv.verification.pairs import TextPairs

TEMPLATE = "score_template.jinja"


def check_template(output: Output) -> Iterator[str]:
    """Findings unless `output` has a template that renders, with the query and the document."""
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
    except OSError as error:
        yield f"{TEMPLATE} cannot be read: {error.strerror or error}."
        return
    missing = [word for word, text in (("query", query), ("document", document)) if text not in prompt]
    if missing:
        yield f"{TEMPLATE} renders without the {' and the '.join(missing)}."


def check_recorded_templates(output: Output) -> Iterator[str]:
    """A finding for each template of `output` that is not the file whose sha256 jaxconv.json records."""
    prompt = (output.record or {}).get("prompt")
    digests = prompt.get("sha256") if isinstance(prompt, dict) else None
    for name, digest in digests.items() if isinstance(digests, dict) else ():
        path = output.folder / name
        if not path.is_file():
            if name != TEMPLATE:  # which is a finding already
                yield f"there is no {name}, which jaxconv.json records."
            continue
        with reading(path):
            actual = hashlib.sha256(path.read_bytes()).hexdigest()
        if actual != digest:
            yield f"{name} is not the file that the conversion wrote: its sha256 is not the one in jaxconv.json."


def check_claimed_prompt(output: Output, assets: Path, claimed: ClaimedPrompt | None, pairs: TextPairs) -> Iterator[str]:
    """Whether the output's template gives the token ids of the prompt that it must have.

    Args:
        output: The output.
        assets: The directory of the source's tokenizer.
        claimed: The prompt that the output must have; None where nobody says which.
        pairs: The pairs that are rendered.
    """
    if claimed is None:
        return
    stored, vocabulary = (output.folder / TEMPLATE).read_text("utf-8"), Vocabulary(assets)
    try:
        tokens = Vocabulary(output.folder).special_tokens
    except SourceError:  # a finding of the tokenizer's files
        return
    for query, document in pairs:
        try:
            prompt = claimed.render(query, document, tokens)
        except RenderingError as error:
            yield f"{claimed.origin} cannot be rendered: {error}."
            return
        ids = vocabulary.ids(render(stored, query, document, special_tokens=tokens))
        # A prompt that begins with what the tokenizer adds anyway is stored without it.
        if ids not in (vocabulary.ids(prompt), vocabulary.ids(prompt, special=False)):
            yield (
                f"{TEMPLATE} gives another prompt than {claimed.origin}: "
                f"{render(stored, query, document, special_tokens=tokens)!r:.200} instead of {prompt!r:.200}."
            )
            return
