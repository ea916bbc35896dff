"""Small models with odd tokenizers and templates, and what every consumer makes of them."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import jaxconv

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", "<s>", "</s>", "<pad>")
PROMPT = "<|im_start|>user\nQuery: {{ query }}\nDocument: {{ document }}<|im_end|>\n<|im_start|>assistant\n\n"
QWEN: dict[str, Any] = {
    "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": 512,
}  # fmt: skip
LLAMA: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
    "model_max_length": 512,
}  # fmt: skip
PAIRS = (
    ("what is the capital of France?", "Paris is the capital."),
    ("yes no", "cats sleep a lot no yes No"),
    ("q", ""),
    ("it's 2024: où?", "a lot of cats\nsleep 3.14 times,\n\n don't they? " * 3),
)
ROWS = 448


def byte_level(special: Sequence[str] = SPECIAL) -> Tokenizer:
    """A byte-level BPE of a few hundred pieces, "no" and "yes" among them."""
    tokenizer = Tokenizer.from_str(_trained(tuple(special)))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@functools.cache
def _trained(special: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [
        "yes no Yes No yes\nno\nYes\nNo\n",
        "what is the capital of France ? Paris is the capital . cats sleep a lot",
    ] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )  # fmt: skip
    tokenizer.train_from_iterator([*texts, "user assistant Query Document"] * 2, trainer)
    return str(tokenizer.to_str())


@functools.cache
def _model(kind: str, rows: int, sizes: tuple[tuple[str, int], ...]) -> Path:
    """A random model of a kind, kept for the session."""
    folder = Path(tempfile.mkdtemp(prefix="jaxconv-text-")) / "model"
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"num_key_value_heads": 1, "max_position_embeddings": 512, "vocab_size": rows}
    config = AutoConfig.for_model(kind, **{**small, **({} if kind == "qwen2" else {"head_dim": 16}), **dict(sizes)})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return folder


def text_source(
    folder: Path,
    tokenizer: Tokenizer | None = None,
    settings: dict[str, Any] | None = None,
    *,
    kind: str = "qwen3",
    rows: int = ROWS,
    files: dict[str, Any] | None = None,
    **sizes: int,
) -> Path:
    """A source: a random model with a tokenizer, tokenizer_config.json and further files (JSON unless they are text)."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in _model(kind, rows, tuple(sizes.items())).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (tokenizer or byte_level()).save(str(folder / "tokenizer.json"))
    for name, content in {"tokenizer_config.json": settings or (QWEN if kind == "qwen3" else LLAMA), **(files or {})}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def template_file(folder: Path, text: str | bytes) -> Path:
    """A template's file."""
    path = folder / "prompt.jinja"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@dataclass(frozen=True)
class Converted:
    """An output and its source."""

    source: Path
    output: Path
    result: Any


def converted(source: Path, output: Path, template: Path | None, **options: Any) -> Converted:
    """Converts with the answers no and yes."""
    options = {"classifier_from_tokens": ["no", "yes"], "backend": "numpy", **options}
    return Converted(source, output, jaxconv.convert(source, output, template=template, **options))


def messages_of(query: str, document: str) -> list[dict[str, str]]:
    """The pair as vLLM and sentence-transformers hand it to a template."""
    return [{"role": "query", "content": query}, {"role": "document", "content": document}]


@torch.inference_mode()
def check_scores(
    case: Converted, prompt_ids: Callable[[str, str], list[int]], backend: str = "torch", causal_lm: Path | None = None
) -> None:
    """Every consumer gives the causal LM's scores on the right ids, to 1e-4.

    Args:
        case: What was converted.
        prompt_ids: Query and document -> the ids that the causal LM is to see.
        backend: The backend of `jaxconv score`.
        causal_lm: Where transformers reads the causal LM, if not from the source.
    """
    model = AutoModelForCausalLM.from_pretrained(causal_lm or case.source, dtype=torch.float32)
    false, true = (token["id"] for token in json.loads((case.output / "jaxconv.json").read_text())["tokens"])
    ids = [prompt_ids(*pair) for pair in PAIRS]
    rows = [model(torch.tensor([row])).logits[0, -1] for row in ids]
    truth = pytest.approx([float(row[true] - row[false]) for row in rows], abs=1e-4)

    tokenizer = AutoTokenizer.from_pretrained(case.output)
    classifier = AutoModelForSequenceClassification.from_pretrained(case.output, dtype=torch.float32)
    template = (case.output / "score_template.jinja").read_text()
    chats = [messages_of(*pair) for pair in PAIRS]
    texts = [tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False) for chat in chats]
    assert [tokenizer(text)["input_ids"] for text in texts] == ids
    assert [float(classifier(torch.tensor([row])).logits[0, 0]) for row in ids] == truth
    if tokenizer.pad_token is not None:
        assert json.loads((case.output / "config.json").read_text())["pad_token_id"] == tokenizer.pad_token_id
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        assert classifier(**batch).logits[:, 0].tolist() == truth
    encoder = CrossEncoder(str(case.output), device="cpu", model_kwargs={"dtype": torch.float32})
    encoder.activation_fn = torch.nn.Identity()
    assert encoder.predict(list(PAIRS), batch_size=len(PAIRS)).tolist() == truth
    scorer = jaxconv.load(case.output, backend=backend)
    assert [scorer.encode(*pair) for pair in PAIRS] == ids
    assert scorer.score_pairs(PAIRS, raw=True) == truth


def plain_prompt_ids(source: Path, body: str) -> Callable[[str, str], list[int]]:
    """The ids of AutoTokenizer on `body` with the variables filled in by hand."""
    tokenizer = AutoTokenizer.from_pretrained(source)

    def ids(query: str, document: str) -> list[int]:
        text = body.replace("{{ query }}", query).replace("{{ document }}", document)
        return list(tokenizer(text)["input_ids"])

    return ids


def chat_ids(source: Path, template: str, special: bool = True) -> Callable[[str, str], list[int]]:
    """The ids of AutoTokenizer and apply_chat_template with the author's own template."""
    tokenizer = AutoTokenizer.from_pretrained(source)

    def ids(query: str, document: str) -> list[int]:
        text = tokenizer.apply_chat_template(messages_of(query, document), chat_template=template, tokenize=False)
        return list(tokenizer(text, add_special_tokens=special)["input_ids"])

    return ids


os.environ.setdefault("HF_HUB_OFFLINE", "1")
