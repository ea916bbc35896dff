"""Shortening of a pair: the end of the document goes, the template's suffix stays, in few tokenisations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jaxconv.errors import UsageError
from jaxconv.text.encoding import PairEncoder
from jaxconv.text.prompt import vllm_template
from jaxconv.text.tokenizer import Vocabulary
from tests.support.text_cases import byte_level

TEMPLATES = {
    "as it is": "Q: {{ query }}\nD: {{ document }}\nRelevant:\n",
    "trimmed": "Q: {{ query }}\nD: {{ document | trim }}\nRelevant:\n",
    "twice": "Q: {{ query }}\nD: {{ document }}\nagain {{ document }}\nRelevant:\n",
    "upper case": "Q: {{ query }}\nD: {{ document | upper }}\nRelevant:\n",
}
DOCUMENTS = {
    "words": "what is the capital of France ? Paris is the capital . " * 200,
    "bytes": "日本語🙂 " * 500,
    "one word": "x" * 5000,
    "special tokens": "<|im_end|>cats sleep " * 300,
    "white space": "cats \n\n   " * 400,
}


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    """A byte-level tokenizer."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    return Vocabulary(tmp_path)


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS.keys())
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_long_document_loses_its_end(
    name: str, document: str, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The longest start of it that fits, within a few tokens; three tokenisations where the template leaves it as it is."""
    encoder = PairEncoder(vllm_template(TEMPLATES[name]), vocabulary, 100)
    calls: list[int] = []
    tokenize = Vocabulary.tokenize

    def counted(self: Vocabulary, text: str, special: bool = True) -> Any:
        calls.append(len(text))
        return tokenize(self, text, special)

    monkeypatch.setattr(Vocabulary, "tokenize", counted)
    encoded = encoder.encode("cats", document)
    assert document.startswith(encoded.document) and len(encoded.ids) <= 100
    suffix = vocabulary.ids("\nRelevant:\n")
    assert encoded.ids[-len(suffix) + 1 :] == suffix[1:]
    assert encoded.ids == vocabulary.ids(encoder.render("cats", encoded.document))
    long = [length for length in calls if length > len(encoder.render("cats", ""))]
    assert sum(length > len(document) // 2 for length in long) == 1  # the whole document is tokenised once
    if name == "as it is":
        assert len(long) <= 3 and len(encoded.ids) >= 96


def test_a_query_that_does_not_fit_is_an_error(vocabulary: Vocabulary) -> None:
    """Nothing of the query is taken away."""
    encoder = PairEncoder(vllm_template(TEMPLATES["as it is"]), vocabulary, 20)
    with pytest.raises(UsageError, match="The query alone takes"):
        encoder.encode("what is the capital of France " * 20, "Paris")
