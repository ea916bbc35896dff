"""The proof of the text: what transformers makes of an output, and that each way of spoiling it is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors

from jaxconv.verification import text as verification_text
from jaxconv.verification.text import OWN_READING, TextCheck, check_text
from tests.support.text_cases import LLAMA, PAIRS, PROMPT, byte_level, converted, template_file, text_source

NAMED = "additional_chat_templates/jaxconv_score.jinja"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source that adds a first token, and what it converts to."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 4)])
    source = text_source(folder / "source", tokenizer, LLAMA, kind="llama")
    return source, converted(source, folder / "out", template_file(folder, PROMPT)).output


def checked(pair: tuple[Path, Path], folder: Path, change: Callable[[Path], object]) -> TextCheck:
    """The check of a changed copy of the output."""
    source, output = pair
    shutil.copytree(output, folder / "changed")
    change(folder / "changed")
    return check_text(source, folder / "changed", PAIRS)


def _edit(name: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


def _json(name: str, **values: Any) -> Callable[[Path], object]:
    return _edit(name, lambda text: json.dumps({**json.loads(text), **values}))


def _tokenizer(change: Callable[[Tokenizer], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        change(tokenizer)
        tokenizer.save(str(folder / "tokenizer.json"))

    return apply


OTHER_IDS = "CrossEncoder is given other token ids"
OTHERS = "source's tokenizer gives other token ids"
SABOTAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "the template": (_edit("score_template.jinja", lambda text: text.replace("Query:", "query:")), OTHER_IDS),
    "a newline of it": (_edit("score_template.jinja", lambda text: text.replace('"\\n"', '""')), OTHER_IDS),
    "the named template": (_edit(NAMED, lambda text: text.replace("Document", "Documents")), OTHER_IDS),
    "its first token": (_edit(NAMED, lambda text: text.replace('{{ "<s>" }}', "")), OTHER_IDS),
    "the pad token": (_json("tokenizer_config.json", pad_token="<unk>"), "pad_token_id 6; the tokenizer pads with 3"),
    "the pad token's id": (_json("config.json", pad_token_id=5), "pad_token_id 5; the tokenizer pads with 6"),
    "the pre-tokenizer": (
        _tokenizer(
            lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), t.pre_tokenizer]))
        ),
        OTHERS,
    ),
    "the normalizer": (_tokenizer(lambda t: setattr(t, "normalizer", normalizers.Lowercase())), OTHERS),
    "an appended token": (
        _tokenizer(
            lambda t: setattr(
                t, "post_processor",
                processors.TemplateProcessing(single="<s> $A <pad>", special_tokens=[("<s>", 4), ("<pad>", 6)]),
            )
        ),
        "in a padded batch vLLM reads the score at token",
    ),
    "the tokenizer's class": (
        _json("tokenizer_config.json", tokenizer_class="LlamaTokenizer", add_prefix_space=False, split_special_tokens=True),
        "other token ids",
    ),
    "the record of sentence-transformers": (
        _json("sentence_bert_config.json", processing_kwargs={}), "names no chat template",
    ),
    "a template that fails": (_edit("score_template.jinja", lambda text: text + "{{ 1/0 }}"), "prompts cannot be made"),
    "a file that is gone": (lambda folder: (folder / "tokenizer.json").unlink(), "prompts cannot be made"),
}  # fmt: skip


def test_an_untouched_output_has_no_findings(pair: tuple[Path, Path]) -> None:
    """And the reading is transformers', of the class that it took."""
    check = check_text(*pair, PAIRS)
    assert check == TextCheck((), True, (), "TokenizersBackend")


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_spoiled_output_is_found(name: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Each sabotage of templates, tokenizer files and padding has a finding that names it."""
    change, finding = SABOTAGES[name]
    assert finding in " ".join(checked(pair, tmp_path, change).findings)


def test_without_transformers_it_says_what_rests_on_our_reading(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Nothing is claimed to be independent."""
    monkeypatch.setattr(verification_text, "is_installed", lambda: False)
    assert check_text(*pair, PAIRS) == TextCheck((), False, OWN_READING)
