"""Every preset, by its file: complete, renderable, and found by its hub ids."""

from __future__ import annotations

from pathlib import Path

import pytest

import jaxconv
from jaxconv.bundle.template import prompt_for, render
from jaxconv.errors import RefusedError, TokenError, UsageError
from jaxconv.families.table import FAMILIES
from jaxconv.plan import METHODS, Source
from jaxconv.presets import Preset, for_hub_id, get, presets
from jaxconv.presets.detect import detect

CONVERTIBLE = [preset for preset in presets() if not preset.refusal]
REFUSED = [preset for preset in presets() if preset.refusal]


@pytest.mark.parametrize("preset", CONVERTIBLE, ids=lambda preset: preset.name)
def test_a_preset_is_complete(preset: Preset) -> None:
    """Tokens or ids that fit the method, known architectures, sources, and a prompt that holds the pair."""
    count = len(preset.tokens) or len(preset.token_ids)
    assert preset.method in METHODS and count == (2 if preset.method == "from_2_way_softmax" else 1)
    assert not preset.tokens or not preset.token_ids or len(preset.tokens) == len(preset.token_ids)
    assert set(preset.architectures) <= {row.architecture for row in FAMILIES.values()}
    assert preset.hub_ids and preset.sources and preset.evidence
    prompt = prompt_for(preset, None)
    text = render(prompt.template, "A QUERY", "A DOCUMENT")
    assert prompt.known and text.count("A QUERY") == 1 and text.count("A DOCUMENT") == 1


@pytest.mark.parametrize("preset", REFUSED, ids=lambda preset: preset.name)
def test_a_refusal_says_why_and_what_else(preset: Preset) -> None:
    """A known reranker that cannot be converted is refused by its id, with the reason and the alternative."""
    source = Source(preset.hub_ids[0], Path("x"), Path("x"), hub_id=preset.hub_ids[0])
    with pytest.raises(RefusedError) as caught:
        detect(source, None)
    assert str(preset.refusal) in str(caught.value) and str(preset.alternative) in str(caught.value)


def test_hub_ids_name_one_preset_each() -> None:
    """No id belongs to two presets, and letter case does not matter."""
    ids = [hub_id.lower() for preset in presets() for hub_id in preset.hub_ids]
    assert len(set(ids)) == len(ids)
    found = for_hub_id("qwen/qwen3-reranker-0.6b")
    assert found is not None and found.name == "qwen3-reranker"
    with pytest.raises(UsageError, match="qwen3-reranker"):
        get("qwen-reranker")


def test_a_preset_checks_its_ids(qwen3: Path, tmp_path: Path) -> None:
    """A preset on another model's tokenizer is an error that shows both ids."""
    with pytest.raises(TokenError, match=r"\[2152, 9693\]"):
        jaxconv.convert(qwen3, tmp_path / "out", preset="qwen3-reranker", backend="numpy")


def test_calibration_needs_a_preset_that_has_one(qwen3: Path, tmp_path: Path) -> None:
    """--calibrate without a calibration is a usage error."""
    with pytest.raises(UsageError, match="--calibrate"):
        jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=["no", "yes"], calibrate=True, backend="numpy")
