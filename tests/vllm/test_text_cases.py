"""Odd tokenizers and templates in a real vLLM: raw scores of the causal LM through `/score`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

import jaxconv
from tests.cases.test_recorded_prompts import TEMPLATE, saved
from tests.support.text_cases import LLAMA, PAIRS, PROMPT, QWEN, byte_level, messages_of, template_file, text_source
from tests.support.vllm_server import HEADS, ask, served

pytestmark = pytest.mark.vllm
CHAT = TEMPLATE  # ends in three newlines
MAP = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
UNPADDED = {key: value for key, value in LLAMA.items() if key != "pad_token"}


def pad_in_the_map(folder: Path) -> tuple[Path, str | None]:
    """Case 05: the pad token stands in special_tokens_map.json."""
    return text_source(
        folder / "source", None, UNPADDED, kind="llama", files={"special_tokens_map.json": MAP}, **HEADS
    ), PROMPT


def over_messages(folder: Path) -> tuple[Path, str | None]:
    """Case 08: a template over messages that ends in newlines."""
    return text_source(folder / "source", None, QWEN, **HEADS), CHAT


def named_tokens(folder: Path) -> tuple[Path, str | None]:
    """Case 09: special tokens by name, and a first token that the tokenizer adds anyway."""
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 4)])
    text = "{{ bos_token }}" + CHAT.removesuffix("\n\n\n") + "{{ eos_token }}\n<|assistant|>\n\n"
    return text_source(folder / "source", tokenizer, LLAMA, kind="llama", **HEADS), text


def recorded(folder: Path) -> tuple[Path, str | None]:
    """Case 11: the prompt that sentence-transformers saved."""
    return saved(folder, TEMPLATE, **HEADS), None


@pytest.mark.parametrize("case", [pad_in_the_map, over_messages, named_tokens, recorded])
def test_scores_are_the_causal_lms(case: Callable[[Path], tuple[Path, str | None]], tmp_path: Path) -> None:
    """The server's raw scores equal true minus false logit of transformers on the author's own prompt."""
    source, text = case(tmp_path)
    options = {} if text is None else {"template": template_file(tmp_path, text), "classifier_from_tokens": ["no", "yes"]}
    output = tmp_path / "out"
    jaxconv.convert(source, output, backend="numpy", **options)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    false, true = (token["id"] for token in json.loads((output / "jaxconv.json").read_text())["tokens"])
    with served(output, tmp_path / "log") as url:
        for query, document in PAIRS:
            if case is pad_in_the_map:
                ids = tokenizer(PROMPT[:-1].replace("{{ query }}", query).replace("{{ document }}", document))["input_ids"]
            else:
                chat = messages_of(query, document)
                ids = tokenizer.apply_chat_template(chat, chat_template=text, return_dict=True)["input_ids"]
            with torch.inference_mode():
                row = model(torch.tensor([ids])).logits[0, -1]
            answer = ask(url, "/score", queries=query, documents=[document], use_activation=False)
            assert answer["data"][0]["score"] == pytest.approx(float(row[true] - row[false]), abs=1e-4)
            assert answer["usage"]["prompt_tokens"] == len(ids)
