"""Tokenizer classes that transformers builds anew, and settings that only transformers reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers

import jaxconv
from jaxconv.cli import main
from jaxconv.errors import RefusedError
from jaxconv.text import prompt_fit
from tests.support.text_cases import (
    LLAMA,
    PROMPT,
    QWEN,
    byte_level,
    check_scores,
    converted,
    plain_prompt_ids,
    template_file,
    text_source,
)

BODY = PROMPT.removesuffix("\n")

AT_SPACES = pre_tokenizers.Sequence(
    [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
)
REBUILT: dict[str, tuple[str, dict[str, Any], Any]] = {
    "a Qwen2 with GPT-2's pre-tokenizer": ("qwen2", QWEN, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "a Qwen2 by its model type": ("qwen2", LLAMA, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "a Qwen3 that splits at spaces": (
        "qwen3", QWEN,
        AT_SPACES,
    ),
    "a Qwen3 without a class": ("qwen3", {"eos_token": "</s>"}, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "a GPT-2": (
        "llama", {**LLAMA, "tokenizer_class": "GPT2TokenizerFast"},
        AT_SPACES,
    ),
    "a Cohere": ("llama", {**LLAMA, "tokenizer_class": "CohereTokenizer"}, pre_tokenizers.ByteLevel(add_prefix_space=False)),
}  # fmt: skip


@pytest.mark.parametrize("name", REBUILT)
def test_classes_that_build_the_tokenizer_anew_are_followed(name: str, tmp_path: Path) -> None:
    """Whatever tokenizer.json says of pre-tokenisation, the ids are those of the class; the difference is said."""
    kind, settings, pre_tokenizer = REBUILT[name]
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizer
    source = text_source(tmp_path / "source", tokenizer, settings, kind=kind)
    case = converted(source, tmp_path / "out", template_file(tmp_path, PROMPT))
    check_scores(case, plain_prompt_ids(source, BODY))
    assert "tokenises some texts differently" in " ".join(case.result.plan.warnings)


def test_the_output_does_not_depend_on_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without transformers the class is named in a warning that is printed, and every byte of the output is the same."""
    source = text_source(tmp_path / "source", byte_level(), QWEN, kind="qwen2")
    arguments = ["--classifier-from-tokens", '["no","yes"]', "--backend", "numpy"]
    assert main(["convert", str(source), str(tmp_path / "with"), *arguments]) == 0
    assert "it is not installed" not in capsys.readouterr().out
    monkeypatch.setattr(prompt_fit, "is_installed", lambda: False)
    assert main(["convert", str(source), str(tmp_path / "without"), *arguments]) == 0
    assert "builds the tokenizer class Qwen2Tokenizer anew" in capsys.readouterr().out
    assert "it is not installed" in " ".join(jaxconv.inspect(source, token_ids=[5, 6])["warnings"])
    one, other = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "with", tmp_path / "without")
    )
    assert one == other and len(one) > 8


def test_special_tokens_that_transformers_splits_are_refused_and_the_next_step_works(tmp_path: Path) -> None:
    """Only transformers reads split_special_tokens; saving the tokenizer again would not help."""
    source = text_source(tmp_path / "source", byte_level(), {**QWEN, "split_special_tokens": True})
    template = template_file(tmp_path, PROMPT)
    with pytest.raises(RefusedError, match="Remove it") as refusal:
        converted(source, tmp_path / "out", template)
    assert f'"split_special_tokens": true in {source / "tokenizer_config.json"}' in str(refusal.value)
    (source / "tokenizer_config.json").write_text(json.dumps(QWEN))
    check_scores(converted(source, tmp_path / "out", template), plain_prompt_ids(source, BODY))
