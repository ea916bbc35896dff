"""Tokenizers as people have them: training's settings left in, pad tokens in one file or another, tokens appended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, processors

import jaxconv
from jaxconv.errors import RefusedError, SourceError, UsageError
from tests.support.text_cases import (
    LLAMA,
    PROMPT,
    QWEN,
    ROWS,
    byte_level,
    check_scores,
    converted,
    plain_prompt_ids,
    template_file,
    text_source,
)

BODY = PROMPT.removesuffix("\n")


def _padded(**settings: Any) -> Callable[[Tokenizer], None]:
    return lambda tokenizer: tokenizer.enable_padding(**settings)


def _truncated(length: int, **settings: Any) -> Callable[[Tokenizer], None]:
    return lambda tokenizer: tokenizer.enable_truncation(length, **settings)


def _both(tokenizer: Tokenizer) -> None:
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding(length=64, pad_id=0, pad_token="<|endoftext|>")


TRAINING = {
    "padding and truncation": _both,
    "truncation": _truncated(8),
    "padding on the left": _padded(length=64, direction="left", pad_id=0, pad_token="<|endoftext|>"),
    "padding to a multiple": _padded(pad_to_multiple_of=32, pad_id=0, pad_token="<|endoftext|>"),
    "truncation on the left": _truncated(8, direction="left"),
    "truncation with a stride": _truncated(16, stride=4, strategy="only_first"),
    "padding with another token": _padded(length=48, pad_id=6, pad_token="<pad>"),
}


@pytest.mark.parametrize("name", TRAINING)
def test_padding_and_truncation_of_training_do_not_count(name: str, tmp_path: Path) -> None:
    """The prompt is looked at, and scored, whole and without padding."""
    tokenizer = byte_level()
    TRAINING[name](tokenizer)
    source = text_source(tmp_path / "source", tokenizer)
    case = converted(source, tmp_path / "out", template_file(tmp_path, PROMPT))
    check_scores(case, plain_prompt_ids(source, BODY), backend="jax" if name == "truncation" else "torch")


def _token(text: str, **flags: bool) -> dict[str, Any]:
    return {"content": text, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, **flags}


UNPADDED = {key: value for key, value in LLAMA.items() if key != "pad_token"}
MAP = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
# settings, special_tokens_map.json, the id that the output pads with
PADS: dict[str, tuple[dict[str, Any], dict[str, Any] | None, int]] = {
    "only in the map": (UNPADDED, MAP, 3),
    "the map against the settings": (LLAMA, MAP, 3),
    "an object in the map": (LLAMA, {**MAP, "pad_token": _token("</s>")}, 5),
    "an object in the settings": ({**LLAMA, "pad_token": {"__type": "AddedToken", **_token("<unk>")}}, None, 3),
    "the settings list added tokens": (
        {**LLAMA, "added_tokens_decoder": {"6": {**_token("<pad>"), "special": True}}}, MAP, 6,
    ),
    "null in the settings": ({**LLAMA, "pad_token": None}, None, 6),
    "nowhere": (UNPADDED, None, 6),
    "not in the vocabulary": ({**LLAMA, "pad_token": "<nothing of the kind>"}, None, 6),
    "of the class": ({**UNPADDED, "tokenizer_class": "Qwen2Tokenizer"}, None, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", PADS)
def test_batches_are_padded_with_the_token_that_config_names(name: str, tmp_path: Path) -> None:
    """Whichever file names the pad token, transformers and config.json agree on it."""
    settings, special_tokens_map, pad = PADS[name]
    files = {} if special_tokens_map is None else {"special_tokens_map.json": special_tokens_map}
    tokenizer = byte_level()
    # a token that transformers adds has no row
    rows = tokenizer.get_vocab_size() if name == "not in the vocabulary" else ROWS
    source = text_source(tmp_path / "source", tokenizer, settings, kind="llama", files=files, rows=rows)
    case = converted(source, tmp_path / "out", template_file(tmp_path, PROMPT))
    assert json.loads((case.output / "config.json").read_text())["pad_token_id"] == pad
    check_scores(case, plain_prompt_ids(source, BODY))


def test_a_pad_token_that_only_stored_padding_names_counts(tmp_path: Path) -> None:
    """transformers takes it from tokenizer.json, so a prompt must not end with it."""
    tokenizer = byte_level()
    tokenizer.enable_padding(length=32, pad_id=5, pad_token="</s>")
    source = text_source(tmp_path / "source", tokenizer, UNPADDED, kind="llama")
    with pytest.raises(RefusedError, match=r"ends in '</s>' \(5\)"):
        converted(source, tmp_path / "out", template_file(tmp_path, "{{ query }} {{ document }}</s>"))
    case = converted(source, tmp_path / "out", template_file(tmp_path, PROMPT))
    check_scores(case, plain_prompt_ids(source, BODY))


def test_any_special_token_serves_as_padding(tmp_path: Path) -> None:
    """Llama 3.0 has none of the usual ones: one that the tokenizer uses for nothing else is taken."""
    special = ("<|begin|>", "<|end|>", "<|reserved_0|>")
    tokenizer = byte_level(special)
    source = text_source(
        tmp_path / "source", tokenizer, {"bos_token": "<|begin|>", "eos_token": "<|end|>"}, kind="llama"
    )  # fmt: skip
    body = "Query: {{ query }}\nDocument: {{ document }}<|end|>"
    case = converted(source, tmp_path / "out", template_file(tmp_path, body))
    assert json.loads((case.output / "tokenizer_config.json").read_text())["pad_token"] == "<|reserved_0|>"
    check_scores(case, plain_prompt_ids(source, body))


def _template(single: str, *named: tuple[str, int]) -> Any:
    return processors.TemplateProcessing(single=single, special_tokens=list(named))


APPENDING: dict[str, tuple[Any, str]] = {
    "its pad token": (_template("$A <|endoftext|>", ("<|endoftext|>", 0)), "<|endoftext|>"),
    "another token": (_template("$A </s>", ("</s>", 5)), "</s>"),
    "after a first token": (_template("<s> $A </s>", ("<s>", 4), ("</s>", 5)), "</s>"),
    "two tokens": (_template("$A <|im_end|> </s>", ("<|im_end|>", 2), ("</s>", 5)), "<|im_end|></s>"),
    "in a sequence": (
        processors.Sequence([processors.ByteLevel(trim_offsets=False), _template("$A </s>", ("</s>", 5))]), "</s>",
    ),
    "as BERT does": (processors.BertProcessing(("</s>", 5), ("<s>", 4)), "</s>"),
}  # fmt: skip


@pytest.mark.parametrize("name", APPENDING)
def test_a_tokenizer_that_appends_a_token_is_refused_and_the_next_step_works(name: str, tmp_path: Path) -> None:
    """The score would be read at the appended token; the command in the message makes the tokenizer stop."""
    tokenizer = byte_level()
    tokenizer.post_processor, appended = APPENDING[name]
    source, template = text_source(tmp_path / "it's a source", tokenizer), template_file(tmp_path, PROMPT)
    with pytest.raises(RefusedError, match="the score there, not after the prompt") as refusal:
        converted(source, tmp_path / "out", template)
    message = str(refusal.value)
    assert repr(appended) in message
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", message[message.index("\npython -c") :]], check=True, env={**os.environ, "PATH": path})
    case = converted(source, tmp_path / "out", template)
    check_scores(case, plain_prompt_ids(source, BODY))


def test_a_template_longer_than_the_tokenizer_keeps_is_refused(tmp_path: Path) -> None:
    """CrossEncoder would cut off the prompt's end; with the limit corrected all consumers agree."""
    source = text_source(tmp_path / "source", settings={**QWEN, "model_max_length": 16})
    template = template_file(tmp_path, PROMPT)
    with pytest.raises(RefusedError, match=r"has \d+ tokens beside query and document, and model_max_length .* is 16"):
        converted(source, tmp_path / "out", template)
    (source / "tokenizer_config.json").write_text(json.dumps(QWEN))
    check_scores(converted(source, tmp_path / "out", template), plain_prompt_ids(source, BODY))


def test_a_vocabulary_without_tokenizer_json_is_refused_and_the_next_step_works(tmp_path: Path) -> None:
    """vocab.json and merges.txt alone: the command in the message makes tokenizer.json of them."""
    source = text_source(tmp_path / "it's a source")
    model = json.loads((source / "tokenizer.json").read_text())["model"]
    (source / "vocab.json").write_text(json.dumps(model["vocab"]))
    (source / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (source / "tokenizer.json").unlink()
    template = template_file(tmp_path, PROMPT)
    with pytest.raises(SourceError, match=r"It has vocab\.json, merges\.txt, from which transformers makes one") as refusal:
        converted(source, tmp_path / "out", template)
    message = str(refusal.value)
    command = message[message.index("python -c") : message.index(", or pass --base")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", command], check=True, env={**os.environ, "PATH": path})
    check_scores(converted(source, tmp_path / "out", template), plain_prompt_ids(source, BODY))


def _extra(tokenizer: Tokenizer, count: int) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(f"<extra_{i}>", special=True, normalized=False) for i in range(count)])
    return tokenizer


def _rows_below(tokenizer: Tokenizer) -> int:
    return int(tokenizer.get_vocab_size()) - 2


ROWLESS = (
    "<extra_4>{{ query }} {{ document }}:", "{{ query }} {{ document }}<extra_3>", "{{ query }}<extra_4>{{ document }}.",
    "{{ messages[0].content }}<extra_4>{{ messages[1].content }}", "<extra_3><extra_4>{{ document }} {{ query }}\n\n",
)  # fmt: skip


@pytest.mark.parametrize("template", ROWLESS)
def test_a_prompt_with_a_token_without_a_row_is_refused(template: str, tmp_path: Path) -> None:
    """The message names the token, by convert and by inspect."""
    tokenizer = _extra(byte_level(), 5)
    source = text_source(tmp_path / "source", tokenizer, rows=_rows_below(tokenizer))
    file = template_file(tmp_path, template)
    with pytest.raises(RefusedError, match=r"token '<extra_[34]>' \(\d+\), which has no row"):
        converted(source, tmp_path / "out", file)
    (refusal,) = jaxconv.inspect(source, classifier_from_tokens=["no", "yes"], template=file)["refusals"]
    assert "has no row" in refusal


def test_tokens_without_a_row_outside_the_prompt_are_said(tmp_path: Path) -> None:
    """The conversion warns, and `score` names the token of a text that has it, by both backends."""
    tokenizer = _extra(byte_level(), 5)
    source = text_source(tmp_path / "source", tokenizer, rows=_rows_below(tokenizer))
    case = converted(source, tmp_path / "out", template_file(tmp_path, PROMPT))
    assert "2 entries without a row" in " ".join(case.result.plan.warnings)
    check_scores(case, plain_prompt_ids(source, BODY))
    for backend in ("jax", "torch"):
        with pytest.raises(UsageError, match=r"token '<extra_4>' \(\d+\), which has no row"):
            jaxconv.load(case.output, backend=backend).score("q", ["a <extra_4>"])


def test_tokens_that_the_settings_add_are_tokens(tmp_path: Path) -> None:
    """transformers adds the special tokens that tokenizer.json lacks, and so does jaxconv."""
    settings = {**LLAMA, "extra_special_tokens": ["<judge>"], "eos_token": "<|end of it|>"}
    source = text_source(tmp_path / "source", byte_level(), settings, kind="llama")
    body = "<judge>{{ query }}<|end of it|>{{ document }}:"
    case = converted(source, tmp_path / "out", template_file(tmp_path, body))
    check_scores(case, plain_prompt_ids(source, body))
    assert len(plain_prompt_ids(source, body)("", "")) == 3


# Files beside tokenizer.json that change which pieces a text is parted into, and how the prompt begins.
BESIDE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "other flags of a token": (
        {**LLAMA, "added_tokens_decoder": {"2": {**_token("<|im_end|>", lstrip=True, rstrip=True), "special": True}}}, {}, "",
    ),
    "flags of a named token": (
        {**LLAMA, "eos_token": "<turn>", "added_tokens_decoder": {"420": {**_token("<turn>", rstrip=True), "special": True}}},
        {}, "<turn> ",
    ),
    "tokens in added_tokens.json": (LLAMA, {"added_tokens.json": {"<judge>": 420}}, "<judge>"),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_added_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """tokenizer_config.json changes the flags of a token that tokenizer.json has, and added_tokens.json adds some."""
    settings, files, start = BESIDE[name]
    source = text_source(tmp_path / "source", byte_level(), settings, kind="llama", files=files)
    case = converted(source, tmp_path / "out", template_file(tmp_path, start + PROMPT))
    check_scores(case, plain_prompt_ids(source, start + BODY))
