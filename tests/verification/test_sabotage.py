"""The proof of the proof: faults in the conversion's code are found by `verify`, though it runs in the same process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
import torch
from transformers import AutoModelForCausalLM

import jaxconv
import jaxconv.verification.text
from jaxconv.layouts import layouts
from jaxconv.verification import Report
from jaxconv.verification.libraries import libraries
from tests.foreign import cases
from tests.layouts.test_hf_flax import as_flax
from tests.support.tiny import tiny_checkpoint, tokenizer
from tests.test_adapter import trained
from tests.verification.sabotage_tables import SABOTAGES
from tests.verification.sabotages import Sabotage

pytestmark = pytest.mark.slow

PAIRS = [("is it", "the that this yes"), ("no", "this"), ("what is the yes", "that that the no this")]
TOKENS = ["no", "yes"]


def float32_checkpoint(folder: Path) -> Path:
    """A tiny Llama whose stored values need more than a bfloat16."""
    tiny_checkpoint(folder, "llama", tie=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-4)
    model.save_pretrained(folder)
    tokenizer(False).save_pretrained(folder)
    return folder


SOURCES: dict[str, Callable[[Path], Path]] = {
    "qwen3": lambda folder: tiny_checkpoint(folder / "source", "qwen3", tie=True),
    "llama": lambda folder: tiny_checkpoint(folder / "source", "llama", tie=False),
    "untied": lambda folder: tiny_checkpoint(folder / "source", "llama", tie=False, shards=3),
    "float32": lambda folder: float32_checkpoint(folder / "source"),
    "granite": lambda folder: tiny_checkpoint(folder / "source", "granite", tie=False),
    "flax": lambda folder: as_flax(tiny_checkpoint(folder / "hf", "llama", tie=False), folder / "source"),
    "adapter": lambda folder: float32_checkpoint(folder / "source"),
}


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """JAX compiles the decoder anew, with the fault and without it."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def arguments(kind: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A source and the options that both commands need for it."""
    if "/" in kind:
        case = cases.unpack(kind, folder)
        return case.weights, {"base": case.original, "classifier_from_tokens": cases.TOKENS}
    source = SOURCES[kind](folder)
    options: dict[str, Any] = {"classifier_from_tokens": TOKENS}
    if kind == "adapter":
        options["adapter"] = trained(source, folder / "adapter")
    return source, options


def verified(kind: str, folder: Path, sabotage: Sabotage, backend: str) -> Report:
    """What `verify` says of a conversion with the options of a sabotage."""
    source, options = arguments(kind, folder)
    texts = {**sabotage.convert}.pop("template", None)
    if texts is not None:
        (folder / "prompt.jinja").write_text(texts)
    convert, claims = (
        {key: folder / "prompt.jinja" if key == "template" else value for key, value in given.items()}
        for given in (sabotage.convert, sabotage.claims)
    )
    jaxconv.convert(source, folder / "out", backend="numpy", **options, **convert)
    pairs = [("t5 t9", "t7 t300 t8"), ("t77", "t6 t6 t11")] if "/" in kind else PAIRS
    without_scores = kind == "granite" and backend == "jax"  # JAX has no Granite
    return jaxconv.verify(
        source, folder / "out", pairs=pairs, backend=backend, structure_only=without_scores, **options, **claims
    )


@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotage_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fault in force the report fails and names what is wrong."""
    sabotage = SABOTAGES[name]
    sabotage.patch(monkeypatch)
    report = verified(sabotage.source, tmp_path, sabotage, "auto")
    assert not report.passed
    assert any(re.search(sabotage.finding, finding) for finding in report.findings), report.findings


@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotage_without_transformers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By JAX alone the same faults are found, apart from those that the guide lists."""
    sabotage = SABOTAGES[name]
    sabotage.patch(monkeypatch)
    monkeypatch.setattr(jaxconv.verification.text, "is_installed", lambda: False)
    report = verified(sabotage.source, tmp_path, sabotage, "jax")
    assert report.passed is sabotage.needs_transformers, report.findings


@pytest.mark.parametrize("kind", sorted({sabotage.source for sabotage in SABOTAGES.values()}))
def test_without_sabotage_all_passes(kind: str, tmp_path: Path) -> None:
    """The same sources pass when nothing is wrong, and two implementations computed the scores."""
    alike = {repr(sabotage.convert): sabotage for sabotage in SABOTAGES.values() if sabotage.source == kind}
    for number, sabotage in enumerate(alike.values()):
        (tmp_path / str(number)).mkdir()
        report = verified(kind, tmp_path / str(number), sabotage, "auto")
        assert report.passed, report.findings
        assert report.scores is not None
        assert report.scores.kind == ("consistency" if kind == "granite" else "independent")  # JAX has no Granite


def test_every_layout_is_described_twice() -> None:
    """A layout that only the conversion describes could not be proved by another computation."""
    assert libraries().keys() == layouts().keys()
