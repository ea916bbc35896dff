"""What a tokenizer adds around a text, and templates that spell it out or leave it to the tokenizer.

sentence-transformers renders the pair as messages of the roles "query" and "document" and tokenizes the text without
adding special tokens; vLLM's `--chat-template` adds them. So the template for sentence-transformers carries what the
tokenizer would add, and the one for vLLM does not begin with it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

from jaxconv.errors import RefusedError
from jaxconv.text.prompt import EXAMPLE_PAIR, render
from jaxconv.text.tokenizer import Vocabulary

PROBES = (("query", "document"), EXAMPLE_PAIR, (" query", "\ndocument "), ("", ""))

REPLACE_POST_PROCESSOR = """\
from tokenizers import Tokenizer, processors
tokenizer = Tokenizer.from_file({path!r})
tokenizer.post_processor = processors.TemplateProcessing(single={single!r}, special_tokens={named!r})
tokenizer.save({path!r})"""


def special_tokens(vocabulary: Vocabulary) -> tuple[str, str]:
    """What the tokenizer adds before and after a text."""
    encoded = vocabulary.tokenize("x")
    marks = [piece for piece, special in zip(encoded.tokens, encoded.special, strict=True) if special]
    first = encoded.special.index(False) if False in encoded.special else len(marks)
    return "".join(marks[:first]), "".join(marks[first:])


def check_nothing_appended(vocabulary: Vocabulary) -> None:
    """Raises `RefusedError` for a tokenizer that puts a token after every text, which vLLM would read the score at."""
    before, after = special_tokens(vocabulary)
    if not after:
        return
    named = [(before, vocabulary.id(before))] if before else []
    code = REPLACE_POST_PROCESSOR.format(path=str(vocabulary.path), single=f"{before} $A".strip(), named=named)
    raise RefusedError(
        f"the tokenizer appends {after!r} to every text: vLLM would read the score there, not after the prompt, and "
        f"transformers takes it for padding if it is the pad token. Have {vocabulary.path} append nothing, in a copy of the "
        f"source's tokenizer if others need it as it is:\npython -c {shlex.quote(code)}"
    )


def leave_to_tokenizer(template: str, vocabulary: Vocabulary, names: Mapping[str, str]) -> str | None:
    """The template without the special tokens at its start that the tokenizer adds anyway.

    Args:
        template: A stored template.
        vocabulary: The tokenizer.
        names: The special tokens by name.

    Returns:
        The template whose prompt with special tokens added holds them once; None if it does not begin with them.

    Raises:
        RefusedError: No text gives the token ids of the template's prompt once special tokens are added.
    """
    before, _ = special_tokens(vocabulary)
    rendered = [render(template, *pair, special_tokens=names) for pair in PROBES]
    if not before or not all(text.startswith(before) for text in rendered):
        return None
    literal = json.dumps(before, ensure_ascii=False)
    stored = (
        "{%- set prompt %}\n"
        + template.removesuffix("\n")
        + '{{ "" }}{% endset -%}\n{{ prompt.removeprefix('
        + literal
        + ") }}"
    )
    for text, pair in zip(rendered, PROBES, strict=True):
        again = render(stored, *pair, special_tokens=names)
        if again != text.removeprefix(before) or vocabulary.ids(again) != vocabulary.ids(text, special=False):
            raise RefusedError(
                f"the template begins with {before!r}, which the tokenizer adds anyway, and tokenises what follows otherwise "
                "than the same text by itself; vLLM cannot be given these token ids. Take it out of the template."
            )
    return stored


def with_special_tokens(template: str, vocabulary: Vocabulary, names: Mapping[str, str]) -> str:
    """`template` with the special tokens, as text, that the tokenizer adds before and after a prompt.

    A tokenizer that puts a space before the first word (Mistral's) does not do so after a special token: then the
    template does.

    Raises:
        RefusedError: No spelling gives the ids of the prompt with special tokens added.
    """
    before, after = special_tokens(vocabulary)
    plain = (_literal(before) + template if before else template) + _literal(after)
    # The final newline of a template is not content, and ceases to be the final one here.
    captured = '{% set prompt %}{{ "" }}' + template.removesuffix("\n") + '{{ "" }}{% endset %}'
    space = '{{ "" if prompt[:1] == " " else " " }}{{ prompt }}'
    wanted = [vocabulary.ids(render(template, *pair, special_tokens=names)) for pair in PROBES]
    for candidate in (plain, captured + _literal(before) + space + _literal(after)):
        texts = [render(candidate, *pair, special_tokens=names) for pair in PROBES]
        if [vocabulary.ids(text, special=False) for text in texts] == wanted:
            return candidate
    raise RefusedError(
        f"{vocabulary.path} adds {before!r} and {after!r} in a way that text in a template cannot repeat; "
        "expected the same token ids. Use a template that starts with a word, or report it."
    )


def _literal(text: str) -> str:
    """Jinja that renders `text` alone, white space around it kept."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""
