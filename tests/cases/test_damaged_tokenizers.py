"""Tokenizer files that are damaged, of the wrong type or made to exhaust: an error of jaxconv's, never a traceback."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from jaxconv.errors import JaxconvError, SourceError
from jaxconv.text.prompt import PLAIN, Prompt, vllm_template
from jaxconv.text.prompt_fit import fit_prompt
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.tokens import resolve_tokens
from tests.support.text_cases import LLAMA, byte_level

VALUES: tuple[Any, ...] = (None, True, -1, 10**9, 1.5, "", "x", [], ["x"], {}, {"content": 1}, {"content": None}, [{}])
SETTINGS: dict[str, Any] = {
    **LLAMA, "added_tokens_decoder": {"3": {"content": "<unk>", "special": True}}, "extra_special_tokens": ["<x>"],
    "chat_template": "{{ messages }}", "add_bos_token": True, "split_special_tokens": False, "legacy": False,
}  # fmt: skip
TOKENS = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "pad_token": "<pad>", "unk_token": "<unk>"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer's folder."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path


def use(folder: Path) -> None:
    """What a conversion does with a tokenizer."""
    vocabulary = Vocabulary(folder)
    resolve_tokens(pieces=["no", "yes"], ids=None, vocabulary=vocabulary, num_rows=448, method="from_2_way_softmax")
    fit_prompt(Prompt(vllm_template(PLAIN)), vocabulary, 448)


def changes(document: Any, depth: int = 3) -> Iterator[Any]:
    """The document with every value in it replaced by one of each type."""
    if depth == 0 or not isinstance(document, dict | list):
        return
    entries = list(document.items() if isinstance(document, dict) else enumerate(document))[:12]
    for key, value in entries:
        for other in VALUES:
            copy = dict(document) if isinstance(document, dict) else list(document)
            copy[key] = other
            yield copy
        for inner in changes(value, depth - 1):
            copy = dict(document) if isinstance(document, dict) else list(document)
            copy[key] = inner
            yield copy


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_values_of_the_wrong_type_are_errors_of_jaxconv(name: str, folder: Path) -> None:
    """Every value of both files, replaced by one of each type, is taken or refused."""
    document = SETTINGS if name == "tokenizer_config.json" else TOKENS
    if name == "special_tokens_map.json":
        settings = {key: value for key, value in SETTINGS.items() if key != "added_tokens_decoder"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    refused = 0
    for changed in (*VALUES, *changes(document)):
        (folder / name).write_text(json.dumps(changed))
        try:
            use(folder)
        except JaxconvError:
            refused += 1
    assert refused > 20


def test_values_of_the_wrong_type_in_tokenizer_json_are_errors_of_jaxconv(folder: Path) -> None:
    """The same of tokenizer.json, whose panics are no Exception."""
    document = json.loads((folder / "tokenizer.json").read_text())
    refused = 0
    for number, changed in enumerate(changes(document)):
        if number % 7:
            continue
        (folder / "tokenizer.json").write_text(json.dumps(changed) + " " * (number % 5))
        try:
            use(folder)
        except JaxconvError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\0", "[" * 100_000], ids=range(6))
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_files_that_are_no_json_object_are_named(name: str, content: str, folder: Path) -> None:
    """The message names the file."""
    if name == "special_tokens_map.json":
        (folder / "tokenizer_config.json").write_text("{}")
    (folder / name).write_text(content)
    if content == "null" and name != "tokenizer.json":
        return use(folder)  # as good as no file
    with pytest.raises(SourceError, match=name):
        use(folder)


PARTS: dict[str, dict[str, Any]] = {
    "a special token that the file does not hold": {
        "post_processor": {
            "type": "TemplateProcessing", "special_tokens": {},
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
        },
    },
    "a pattern that is none": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_a_tokenizer_that_panics_is_an_error(name: str, folder: Path) -> None:
    """What the library reports by a panic is an error with the file's name."""
    document = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**document, **PARTS[name]}))
    with pytest.raises(SourceError, match=r"tokenizer\.json cannot be used"):
        use(folder)


def test_an_id_of_a_billion_takes_no_memory(folder: Path) -> None:
    """One vocabulary entry with a huge id: said, within a few megabytes."""
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"]["huge"] = 10**9
    (folder / "tokenizer.json").write_text(json.dumps(document))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fitted = fit_prompt(Prompt(vllm_template(PLAIN)), Vocabulary(folder), 448)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert "'huge' (1000000000)" in " ".join(fitted.warnings)


def test_the_unknown_piece_by_kind_of_model(tmp_path: Path) -> None:
    """Unigram names it by id, the other kinds by text; either way it is no answer."""
    kinds = {
        "unigram": models.Unigram([("<no>", 0.0), ("<what>", 0.0), ("yes", -1.0)], unk_id=1),
        "bpe": models.BPE({"<no>": 0, "<what>": 1, "yes": 2}, [], unk_token="<what>"),
        "wordpiece": models.WordPiece({"<no>": 0, "<what>": 1, "yes": 2}, unk_token="<what>"),
        "wordlevel": models.WordLevel({"<no>": 0, "<what>": 1, "yes": 2}, unk_token="<what>"),
    }
    for name, model in kinds.items():
        (tmp_path / name).mkdir()
        Tokenizer(model).save(str(tmp_path / name / "tokenizer.json"))
        vocabulary = Vocabulary(tmp_path / name)
        assert vocabulary.unknown == 1, name
        with pytest.raises(JaxconvError, match="unknown"):
            resolve_tokens(
                pieces=["<what>", "yes"], ids=None, vocabulary=vocabulary, num_rows=3, method="from_2_way_softmax"
            )  # fmt: skip
