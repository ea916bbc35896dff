"""Real tokenizers x kinds of template: the ids of AutoTokenizer and apply_chat_template, in every consumer's way."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from examples.smollm2 import checkpoint
from jaxconv.presets import get
from jaxconv.presets.known_prompt import prompt_for
from jaxconv.text import prompt_fit
from jaxconv.text.encoding import PairEncoder
from jaxconv.text.prompt import user_prompt
from jaxconv.text.prompt_fit import COMPARED_PAIRS, fit_prompt
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.text.transformers_reading import Asked, Reading, read_with_transformers
from tests.support.real_tokenizers import tokenizer_folder
from tests.support.text_cases import messages_of

# The model type decides the class that transformers takes.
TOKENIZERS = {
    "qwen": "qwen3", "llama2": "llama", "llama3": "llama", "mistral": "mistral", "gemma": "gemma3_text", "smollm2": "llama",
    "unigram": "llama",
}  # fmt: skip
PICK = "{{{{ (messages | selectattr('role', 'eq', '{}') | first).content }}}}"
Q, D = PICK.format("query"), PICK.format("document")
# vLLM's examples by their structure: bge, mxbai, nemotron, qwen3, zerank; then chat templates.
TEMPLATES = {
    "bge": f"A: {Q}\nB: {D}\nGiven a query A and a passage B, say 'Yes' or 'No'.",
    "mxbai": f"<|im_start|>system\nYou judge.<|im_end|>\n<|im_start|>user\nquery: {Q}\ndocument: {D}<|im_end|>\nassistant\n",
    "nemotron": (
        "{%- for m in messages %}{%- if m.role == 'query' %}{%- set q = m.content %}question:{{ q }}{%- endif %}"
        "{%- if m.role == 'document' %} \n \n passage:{{ m.content }}{%- endif %}{%- endfor %}"
    ),
    "qwen3": f"<Instruct>: {{{{ instruction | default('Judge') }}}}\n<Query>: {Q}\n<Document>: {D}\n<think>\n\n</think>\n\n",
    "zerank": f"{{{{- 'system\n' -}}}}\n{Q}\n{{{{- '\n' -}}}}\n{D}{{{{- '\nassistant\n' -}}}}\n",
    "chat": "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}{{ eos_token }}\n{% endfor %}",
    "ends in a block": f"{{% if messages %}}\n {Q} -> {D}\n{{% endif %}}",
    "ends in a block and newlines": f"{{% if messages %}}\n {Q} -> {D}\n{{% endif %}}\n\n\n",
    "three newlines": f"{Q}\n{D}\nRelevant:\n\n\n",
}
PLAIN = "Query: {{ query }}\nDocument: {{ document }}{{ eos_token }}\n\nRelevant:\n"


@cache
def folder_of(name: str, root: Path) -> Path:
    """The tokenizer's folder with a config.json."""
    folder = root / name
    folder.mkdir()
    for path in (checkpoint() if name == "smollm2" else tokenizer_folder(name)).iterdir():
        if path.name.startswith(("tokenizer", "special_tokens", "vocab", "merges")):
            os.symlink(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps({"model_type": TOKENIZERS[name]}))
    return folder


@cache
def loaded(folder: Path) -> Any:
    """The tokenizer, loaded once."""
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the folders lie."""
    return tmp_path_factory.mktemp("tokenizers")


# Reading 262,144 pieces in three libraries takes longest.
LONG = {"gemma": pytest.mark.slow, "llama3": pytest.mark.slow}


@pytest.mark.parametrize("name", [pytest.param(name, marks=LONG.get(name, ())) for name in TOKENIZERS])
def test_ids_are_those_of_transformers(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every kind of template: as vLLM has them, as sentence-transformers has them, and as jaxconv reads them."""
    folder = folder_of(name, root)
    vocabulary, tokenizer = Vocabulary(folder), loaded(folder)
    monkeypatch.setattr(prompt_fit, "is_installed", lambda: False)  # what it compares is compared here
    names = vocabulary.special_tokens
    assert names == {
        **tokenizer.special_tokens_map,
        **{key: names[key] for key in names.keys() - tokenizer.special_tokens_map},
    }
    prompts = {kind: (text, user_prompt(text, names)) for kind, text in TEMPLATES.items()}
    pair = "{%- set query = messages[0].content %}\n{%- set document = messages[1].content %}\n"
    prompts["over a pair"] = (pair + PLAIN, user_prompt(PLAIN, names))
    preset = prompt_for(get("qwen3-reranker"), None)
    prompts["ours"] = (preset.template, preset)
    for kind, (text, prompt) in prompts.items():
        fitted = fit_prompt(prompt, vocabulary, 2**30)
        encoder = PairEncoder(fitted.prompt.template, vocabulary, 2**30)
        for query, document in COMPARED_PAIRS:
            chat = messages_of(query, document)
            rendered = tokenizer.apply_chat_template(chat, chat_template=text, tokenize=False)
            ids = tokenizer(rendered)["input_ids"]
            stored = tokenizer.apply_chat_template(chat, chat_template=fitted.prompt.template, tokenize=False)
            named = tokenizer.apply_chat_template(
                chat, chat_template=fitted.named_template, add_generation_prompt=True, return_dict=True
            )
            assert stored == rendered == encoder.render(query, document), kind
            assert encoder.encode(query, document).ids == ids == named["input_ids"], kind


def test_a_real_tokenizer_is_compared_at_conversion(root: Path) -> None:
    """The classes that transformers builds anew are compared with the installed one; Qwen's own is equal without a word."""
    fitted = fit_prompt(prompt_for(get("qwen3-reranker"), None), Vocabulary(folder_of("qwen", root)), 2**30)
    assert fitted.warnings == ()


def test_transformers_is_asked_without_torch(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own where transformers is not imported yet; the answer is the same, and torch is not there."""
    import sys

    asked = (Asked(TEMPLATES["three newlines"], COMPARED_PAIRS[:2]),)
    folder = folder_of("llama2", root)
    here = read_with_transformers([(folder, asked)])[0]
    monkeypatch.delitem(sys.modules, "transformers")
    there = read_with_transformers([(folder, asked)])[0]
    assert isinstance(here, Reading) and here == there
