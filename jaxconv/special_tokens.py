"""What a tokenizer adds around a text, and a template that spells it out.

sentence-transformers renders the pair as messages of the roles "query" and "document" and tokenizes the text without
adding special tokens; vLLM's `--chat-template` adds them. So the template for sentence-transformers carries what the
tokenizer would add.
"""

from __future__ import annotations

import json

from jaxconv.errors import RefusedError
from jaxconv.prompt import render
from jaxconv.tokenizer import Vocabulary

PROBES = (("query", "document"), (" query", "\ndocument "), ("", ""))


def special_tokens(vocabulary: Vocabulary) -> tuple[str, str]:
    """What the tokenizer adds before and after a text."""
    encoding = vocabulary.tokenizer.encode("x", add_special_tokens=True)
    mask = encoding.special_tokens_mask
    marks = [piece for piece, special in zip(encoding.tokens, mask, strict=True) if special]
    first = mask.index(0) if 0 in mask else len(marks)
    return "".join(marks[:first]), "".join(marks[first:])


def with_special_tokens(template: str, vocabulary: Vocabulary) -> str:
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
    for candidate in (plain, captured + _literal(before) + space + _literal(after)):
        if all(_ids(candidate, *pair, vocabulary, False) == _ids(template, *pair, vocabulary, True) for pair in PROBES):
            return candidate
    raise RefusedError(
        f"{vocabulary.path} adds {before!r} and {after!r} in a way that text in a template cannot repeat; "
        "expected the same token ids. Use a template that starts with a word, or report it."
    )


def _ids(template: str, query: str, document: str, vocabulary: Vocabulary, special: bool) -> list[int]:
    return list(vocabulary.tokenizer.encode(render(template, query, document), add_special_tokens=special).ids)


def _literal(text: str) -> str:
    """Jinja that renders `text` alone, white space around it kept."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""
