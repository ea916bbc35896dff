"""Language models that `--text-only` took out of rerankers of pictures, in a real vLLM: the whole model's scores."""

from __future__ import annotations

from pathlib import Path

import pytest

import jaxconv
from tests.support.multimodal import composite_checkpoint
from tests.support.vllm_engine import Job, engine_scores

pytestmark = pytest.mark.vllm
# vLLM's CPU build runs Qwen3.5 at bfloat16 alone.
NAMES = ("qwen3_vl", "qwen2_5_vl", "qwen2_vl", "gemma3", "internvl", "llava", "mistral3")
QUERY, DOCUMENTS = "where do kestrels nest", ["On cliffs, in towers and in old nests.", "Cats sleep.", "a\nb"]


def test_scores_are_the_whole_models(tmp_path: Path) -> None:
    """transformers' causal LM with its towers, float32."""
    template = tmp_path / "prompt.jinja"
    template.write_text("Query: {{ query }} .\nPassage: {{ document }} .\nRelevant:")
    jobs, truth = [], []
    for name in NAMES:
        source, output = (
            composite_checkpoint(tmp_path / name, name, real=True, tie=name == "gemma3"),
            tmp_path / f"{name}-out",
        )
        jaxconv.convert(
            source, output, classifier_from_tokens=["no", "yes"], template=template, text_only=True, backend="numpy"
        )
        report = jaxconv.verify(source, output, pairs=[(QUERY, document) for document in DOCUMENTS], backend="torch")
        assert report.passed and report.scores is not None, report.findings
        truth.append([row[0] for row in report.scores.source])
        jobs.append(Job(str(output), str(output / "score_template.jinja"), QUERY, DOCUMENTS, dtype="float32"))
    for name, scores, right in zip(NAMES, engine_scores(jobs, tmp_path / "exchange"), truth, strict=True):
        assert len(set(right)) == len(DOCUMENTS)
        assert scores == pytest.approx(right, abs=1e-4), name
