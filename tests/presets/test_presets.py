"""Every preset, by its file: complete, renderable, and found by its hub ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import jaxconv
from jaxconv.errors import RefusedError, SourceError, TokenError, UsageError
from jaxconv.families import COMPOSITES, FAMILIES
from jaxconv.head import METHODS
from jaxconv.presets import Preset, for_hub_id, get, presets
from jaxconv.presets.detect import detect
from jaxconv.presets.known_prompt import prompt_for
from jaxconv.sources import Source
from jaxconv.text.prompt import render

CONVERTIBLE = [preset for preset in presets() if not preset.refusal]
REFUSED = [preset for preset in presets() if preset.refusal]


@pytest.mark.parametrize("preset", CONVERTIBLE, ids=lambda preset: preset.name)
def test_a_preset_is_complete(preset: Preset) -> None:
    """Tokens or ids that fit the method, known architectures, sources, and a prompt that holds the pair."""
    count = len(preset.tokens) or len(preset.token_ids)
    assert preset.method in METHODS and count == (2 if preset.method == "from_2_way_softmax" else 1)
    assert not preset.tokens or not preset.token_ids or len(preset.tokens) == len(preset.token_ids)
    rows = [*FAMILIES.values(), *COMPOSITES.values()]
    assert set(preset.architectures) <= {row.architecture for row in rows}
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


def _logit_score(source: Path, folder: Path, config: object, activation: str | None = None) -> Path:
    """A copy of `source` with the sentence-transformers files of a LogitScore CrossEncoder."""
    shutil.copytree(source, folder)
    (folder / "1_LogitScore").mkdir()
    (folder / "modules.json").write_text(
        json.dumps([{"type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"}])
    )
    (folder / "1_LogitScore/config.json").write_text(json.dumps(config))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"activation_fn": activation}))
    return folder


def test_logit_score_files_name_ids_method_and_activation(qwen3: Path, tmp_path: Path) -> None:
    """The output is that of the same ids given by hand; flags go before the files."""
    two = _logit_score(qwen3, tmp_path / "two", {"true_token_id": 260, "false_token_id": 259})
    one = _logit_score(qwen3, tmp_path / "one", {"true_token_id": 260}, "torch.nn.modules.linear.Identity")
    jaxconv.convert(two, tmp_path / "a", backend="numpy")
    jaxconv.convert(qwen3, tmp_path / "b", token_ids=[259, 260], backend="numpy")
    config = (tmp_path / "a/config.json").read_bytes()
    assert config == (tmp_path / "b/config.json").read_bytes()
    jaxconv.convert(one, tmp_path / "c", backend="numpy")
    made = json.loads((tmp_path / "c/config.json").read_text())
    assert made["sentence_transformers"]["activation_fn"].endswith("Identity")
    assert json.loads((tmp_path / "c/jaxconv.json").read_text())["method"] == "no_post_processing"


@pytest.mark.parametrize("config", [{"true_token_id": 99999, "false_token_id": 1}, {"true_token_id": True}, {}, []])
def test_broken_logit_score_files(qwen3: Path, tmp_path: Path, config: object) -> None:
    """Ids that are no vocabulary entries are an error; tokens given by hand do without the files."""
    source = _logit_score(qwen3, tmp_path / "source", config)
    with pytest.raises(TokenError, match="1_LogitScore"):
        jaxconv.convert(source, tmp_path / "out", backend="numpy")
    jaxconv.convert(source, tmp_path / "out", classifier_from_tokens=["no", "yes"], backend="numpy")


def test_a_wrong_path_in_modules_json(qwen3: Path, tmp_path: Path) -> None:
    """Qwen3-VL-Reranker-8B had one: the file that is there counts and the path is said; without any it is an error."""
    source = _logit_score(qwen3, tmp_path / "source", {"true_token_id": 260, "false_token_id": 259})
    entry = {"path": "2_LogitScore", "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"}
    (source / "modules.json").write_text(json.dumps([entry]))
    plan = jaxconv.convert(source, tmp_path / "a", backend="numpy").plan
    assert [token.id for token in plan.tokens] == [259, 260]
    assert plan.preset_origin is not None and "modules.json names 2_LogitScore/config.json" in plan.preset_origin
    (source / "1_LogitScore").rename(source / "2_LogitScore")
    assert jaxconv.convert(source, tmp_path / "b", backend="numpy").plan.preset_origin == "2_LogitScore/config.json"
    (source / "2_LogitScore").rename(source / "elsewhere")
    with pytest.raises(SourceError, match=r"there is no 2_LogitScore/config\.json\. Download it again, correct the path"):
        jaxconv.convert(source, tmp_path / "c", backend="numpy")
    entry["path"] = "../source/elsewhere"
    (source / "modules.json").write_text(json.dumps([entry]))
    with pytest.raises(SourceError, match=r"has a LogitScore in '\.\./source/elsewhere'"):
        jaxconv.convert(source, tmp_path / "c", backend="numpy")
