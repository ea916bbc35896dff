"""Converted models in a real vLLM: raw logits of the causal LM, through `/score` and `/rerank`."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest

import jaxconv
from examples.demo import PROMPT, QUESTIONS
from examples.smollm2 import checkpoint
from jaxconv.cli import main
from jaxconv.text.prompt import render
from jaxconv.verification import vllm as verification_vllm
from jaxconv.verification.scores import Scores
from tests.support.scores import causal_logits
from tests.support.tiny import tiny_checkpoint, tokenizer
from tests.support.vllm_server import HEADS, ask, served

pytestmark = pytest.mark.vllm
QUERY, DOCUMENTS = "is it yes", ["yes it is", "no\nthat the this", "the other thing: no yes"]


def check_served(source: Path, output: Path, ids: list[int], url: str) -> None:
    """Raw and activated scores of the server equal those of the causal LM in transformers at float32."""
    template = (output / "score_template.jinja").read_text()
    logits = causal_logits(source, [render(template, QUERY, document) for document in DOCUMENTS], ids)
    expected = (logits[:, 1] - logits[:, 0]).tolist()
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
    with served(tmp_path / "out", tmp_path / "log") as url:
        check_served(source, tmp_path / "out", tokenizer(False).convert_tokens_to_ids(["no", "yes"]), url)


def check_ranking(output: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`jaxconv score` by JAX and by PyTorch ranks as `/rerank` does, with the same scores to 1e-4."""
    documents = sorted({document for item in QUESTIONS for document in item["documents"][:3]})
    for query in (item["query"] for item in QUESTIONS[:2]):
        ranked = ask(url, "/rerank", query=query, documents=documents)["results"]
        scores = [entry["relevance_score"] for entry in ranked]
        assert min(high - low for high, low in pairwise(scores)) > 0
        for backend in ("jax", "torch"):
            flags = [flag for document in documents for flag in ("--document", document)]
            assert main(["score", str(output), "--query", query, *flags, "--backend", backend, "--json"]) == 0
            found = json.loads(capsys.readouterr().out)["results"]
            assert [entry["index"] for entry in found] == [entry["index"] for entry in ranked]
            assert [entry["score"] for entry in found] == pytest.approx(scores, abs=1e-4)


def check_verified(source: Path, output: Path, url: str, folder: Path) -> None:
    """`verify --against-vllm` passes on 64 and the built-in pairs; a server of other prompts and rows is told."""
    subjects = ["cats", "tides", "bread", "Paris", "rust", "snow", "chess", "gold"]
    pairs = [(query, f"{document} again") for query in subjects for document in subjects]
    for chosen in (pairs, None):
        report = jaxconv.verify(source, output, pairs=chosen, backend="jax", against_vllm=url, report=folder / "report")
        assert report.passed and report.vllm is not None, report.findings
        assert 0 < report.vllm.max_abs_error <= 1e-4 and report.vllm.rank_agreement == 1.0
    jaxconv.convert(source, folder / "plain", token_ids=[2838, 9230], copy_mode="link", backend="numpy", scale=2.0)
    other = jaxconv.verify(source, folder / "plain", pairs=pairs[:4], backend="jax", against_vllm=url)
    assert [finding for finding in other.findings if f"serves {output}; expected {folder / 'plain'}" in finding]
    assert other.scores is not None and other.scores.max_abs_error <= other.scores.tolerance
    served_differently = compare_elsewhere(url, folder / "plain", other.scores)
    assert "started without the template" in served_differently and "raw scores differ" in served_differently


def compare_elsewhere(url: str, folder: Path, scores: Scores) -> str:
    """What is found when the server's folder cannot be looked into, as on another machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification_vllm, "_another", lambda root, folder: False)
        return " ".join(verification_vllm.compare_served(url, folder, scores, None).findings)


def test_smollm2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real model with the demo's prompt: raw scores, `jaxconv score`'s ranking, `verify --against-vllm`."""
    source, output = checkpoint(), tmp_path / "out"
    jaxconv.convert(
        source, output, classifier_from_tokens=["ĠNo", "ĠYes"], template=PROMPT, copy_mode="link", backend="jax"
    )  # fmt: skip
    with served(output, tmp_path / "log") as url:
        check_served(source, output, [2838, 9230], url)
        check_ranking(output, url, capsys)
        check_verified(source, output, url, tmp_path)
