"""Converted models in a real vLLM: raw logits of the causal LM, through `/score` and `/rerank`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import jaxconv
from jaxconv.bundle.template import render
from tests.support.scores import causal_logits
from tests.support.tiny import tiny_checkpoint, tokenizer
from tests.support.vllm_server import HEADS, ask, served

pytestmark = pytest.mark.vllm
QUERY, DOCUMENTS = "is it yes", ["yes it is", "no\nthat the this", "the other thing: no yes"]


def check_served(source: Path, output: Path, ids: list[int], log: Path) -> None:
    """Raw and activated scores of the server equal those of the causal LM in transformers at float32."""
    template = (output / "score_template.jinja").read_text()
    logits = causal_logits(source, [render(template, QUERY, document) for document in DOCUMENTS], ids)
    expected = (logits[:, 1] - logits[:, 0]).tolist()
    with served(output, log) as url:
        raw = ask(url, "/score", queries=QUERY, documents=DOCUMENTS, use_activation=False)
        active = ask(url, "/score", queries=QUERY, documents=DOCUMENTS)
        ranked = ask(url, "/rerank", query=QUERY, documents=DOCUMENTS)
    for entry, truth in zip(raw["data"], expected, strict=True):
        assert abs(entry["score"] - truth) <= 1e-4
    for entry, truth in zip(active["data"], expected, strict=True):
        assert abs(entry["score"] - 1 / (1 + math.exp(-truth))) <= 1e-4
    order = sorted(range(len(expected)), key=lambda index: -expected[index])
    assert [entry["index"] for entry in ranked["results"]] == order


@pytest.mark.parametrize(
    ("model_type", "tie", "shards", "copy_mode"),
    [
        ("llama", False, 1, "copy"),
        ("qwen2", True, 3, "link"),
        ("qwen3", False, 3, "copy"),
        ("gemma", True, 1, "link"),
        ("mistral", False, 3, "link"),
    ],
)
def test_tiny_families(tmp_path: Path, model_type: str, tie: bool, shards: int, copy_mode: str) -> None:
    """Tied and untied, one file and several, copied and linked: vLLM gives the causal LM's scores."""
    source = tiny_checkpoint(tmp_path / "source", model_type, tie=tie, shards=shards, **HEADS)
    template = tmp_path / "prompt.jinja"
    template.write_text("Query: {{ query }}\nPassage: {{ document }}\nRelevant:\n\n")
    jaxconv.convert(
        source,
        tmp_path / "out",
        classifier_from_tokens=["no", "yes"],
        copy_mode=copy_mode,
        template=template,
        backend="jax",
    )
    check_served(source, tmp_path / "out", tokenizer(False).convert_tokens_to_ids(["no", "yes"]), tmp_path / "log")


def test_smollm2(tmp_path: Path) -> None:
    """The real model with the demo's prompt."""
    from examples.demo import PROMPT
    from examples.smollm2 import checkpoint

    jaxconv.convert(
        checkpoint(),
        tmp_path / "out",
        classifier_from_tokens=["ĠNo", "ĠYes"],
        template=PROMPT,
        copy_mode="link",
        backend="jax",
    )
    check_served(checkpoint(), tmp_path / "out", [2838, 9230], tmp_path / "log")
