"""The examples in the docstrings of the public functions run, and print what they say; other scores are allowed."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.flax

import jaxconv
from tests.support.tiny import tiny_checkpoint

PUBLIC: tuple[Callable[..., object], ...] = (
    jaxconv.inspect, jaxconv.convert, jaxconv.convert_params, jaxconv.verify, jaxconv.load, jaxconv.Scorer.score,
    jaxconv.Scorer.rank,
)  # fmt: skip
SEED = 3  # of random weights that rank the example's documents as it says
CONVERTING = (jaxconv.convert, jaxconv.convert_params)


class AnyScore(doctest.OutputChecker):
    """Takes any decimal fraction for any other."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        """Whether `got` is `want`, whatever the scores."""
        return super().check_output(_without_scores(want), _without_scores(got), optionflags)


def _without_scores(text: str) -> str:
    return re.sub(r"\b0\.\d+", "0.5", text)


@pytest.mark.torch
@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__qualname__)
def test_examples_run(function: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example does what it shows."""
    monkeypatch.chdir(tmp_path)
    source = tiny_checkpoint(tmp_path / "my-reranker", "qwen3", tie=True, seed=SEED)
    names: dict[str, object] = {"jaxconv": jaxconv, "safetensors": safetensors}
    if function not in CONVERTING:
        jaxconv.convert(source, "out", classifier_from_tokens=["no", "yes"], backend="numpy")
        names["model"] = jaxconv.load("out", backend="jax")
    (example,) = doctest.DocTestFinder(recurse=False).find(function, function.__qualname__, globs=names)
    assert example.examples
    report: list[str] = []
    doctest.DocTestRunner(AnyScore()).run(example, out=report.append)
    assert not report, "".join(report)
