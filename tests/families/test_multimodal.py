"""The table of families that read pictures, against transformers' own models: names, bytes, row, config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

import jaxconv
from jaxconv.errors import JaxconvError, RefusedError, SourceError
from jaxconv.families import COMPOSITES, FAMILIES, family_for, find_lm_head, language_model, tie_word_embeddings
from jaxconv.families.multimodal import UNPROVEN
from jaxconv.readers import open_checkpoint
from tests.support.multimodal import TEXT, TINY, composite_checkpoint, respelled
from tests.support.tiny import tokenizer

NAMES = sorted(TINY)
CHANGED = {"architectures", "id2label", "label2id", "use_sep_token", "use_pad_token", "torch_dtype", "pad_token_id",
           "sentence_transformers"}  # fmt: skip
FALSE, TRUE = tokenizer(False).convert_tokens_to_ids(["no", "yes"])


def type_of(name: str) -> str:
    """The family of an entry of `TINY`."""
    return TINY[name].model_type or name


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a directory."""
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def config_of(folder: Path) -> dict[str, Any]:
    """The config.json of a directory."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def under_hub_names(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors with the level in the names of CLIP and SigLIP towers that transformers 5 leaves out and vLLM reads."""
    if config["vision_config"]["model_type"] not in ("clip_vision_model", "siglip_vision_model"):
        return tensors
    return {name.replace("vision_tower.", "vision_tower.vision_model.", 1): tensor for name, tensor in tensors.items()}


def check_output(source: Path, output: Path) -> None:
    """Every tensor but the head bit for bit, the row exact in float32, and a config with only the expected differences."""
    config = config_of(source)
    before, after = under_hub_names(tensors_of(source), config), tensors_of(output)
    family = family_for(config).spelled_as(before)
    head, score = family.head, f"{family.head.score}.weight"
    assert after.keys() == (before.keys() - {head.weight}) | {score}
    assert all(torch.equal(after[name], before[name]) for name in after if name != score)
    rows = before.get(head.weight, before[head.embedding]).float()
    assert after[score].dtype == torch.float32
    assert torch.equal(after[score], (rows[TRUE] - rows[FALSE])[None])
    made = config_of(output)
    assert made["architectures"] == list(COMPOSITES[config["model_type"]].architectures)
    assert made["id2label"] == {"0": "LABEL_0"} and made["use_sep_token"] is False
    if family.head.score != "score" and "text_config" in config:  # vLLM counts the labels where the row is
        labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        assert made["text_config"] == config["text_config"] | labels
        made["text_config"] = config["text_config"]
    changed = {key for key in config.keys() | made.keys() if config.get(key) != made.get(key)}
    assert changed <= CHANGED


def test_every_row_is_tried() -> None:
    """No row goes without a real model."""
    assert {type_of(name) for name in NAMES} == set(COMPOSITES)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_conversion_is_exact(tmp_path: Path, name: str, tie: bool) -> None:
    """Tied in several shards and untied in one file: names of transformers, bytes, row, config; `verify` agrees."""
    source = composite_checkpoint(tmp_path / "source", name, tie=tie, shards=3 if tie else 1)
    config, checkpoint = config_of(source), open_checkpoint(source)
    family = family_for(config).spelled_as(checkpoint.tensors)
    assert config["architectures"] == [family.architecture]
    stored = {
        key: ref.shape for key, ref in checkpoint.tensors.items() if not key.startswith((*family.towers, family.head.weight))
    }
    assert stored == {key: parameter.shape for key, parameter in family.parameters(config).items()}
    assert find_lm_head(checkpoint, family, config).tied is tie
    jaxconv.convert(source, tmp_path / "output", token_ids=[FALSE, TRUE], backend="numpy")
    check_output(source, tmp_path / "output")
    for path in source.glob("*processor*.json"):
        assert (tmp_path / "output" / path.name).read_bytes() == path.read_bytes()
    report = jaxconv.verify(source, tmp_path / "output", pairs=[("a query", "a document")], structure_only=True)
    assert report.passed, report.findings


@pytest.mark.slow
@pytest.mark.parametrize("spelling", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_causal_lms(tmp_path: Path, name: str, spelling: int) -> None:
    """Under every generation of names: transformers' causal LM with its towers, against its language model alone and JAX."""
    if name == "smolvlm":
        pytest.importorskip("num2words", reason="SmolVLM's processor needs it: pip install -r requirements/dev.txt")
    source = composite_checkpoint(tmp_path / "source", name, tie=False)
    spellings = COMPOSITES[type_of(name)].spellings
    written = family_for(config_of(source)).spelled_as(load_file(source / "model.safetensors"))
    before = next(entry for entry in spellings if f"{entry.prefix}embed_tokens.weight" == written.head.embedding)
    if spellings[spelling] != before:
        respelled(source, before, spellings[spelling])
    jaxconv.convert(source, tmp_path / "output", token_ids=[FALSE, TRUE], backend="numpy")
    check_output(source, tmp_path / "output")
    report = jaxconv.verify(source, tmp_path / "output")
    assert report.passed and report.scores is not None, report.findings
    assert report.scores.max_abs_error <= 1e-4
    scorer = jaxconv.load(tmp_path / "output", backend="torch")
    again = scorer.logits([pair for pair in report.scores.scored if all(isinstance(side, str) for side in pair)])
    assert np.abs(np.array(again) - report.scores.source[: len(again)]).max() <= 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_transformers(name: str) -> None:
    """What an absent key of the language model means, and an absent tie_word_embeddings at the top."""
    composite = COMPOSITES[type_of(name)]
    theirs = AutoConfig.for_model(type_of(name))
    assert theirs.tie_word_embeddings is composite.tied
    for text_type, row in composite.texts.items():
        defaults = {**FAMILIES[row].defaults, **composite.defaults}
        text = AutoConfig.for_model(text_type).get_text_config()
        rope = getattr(text, "rope_parameters", None) or {}
        rope = rope.get("full_attention", rope)
        checked = {key: getattr(text, key) for key in defaults if hasattr(text, key)} | (
            {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope and "rope_theta" in defaults else {}
        )
        absent = {"sliding_window"}  # set to None where use_sliding_window is false
        assert {key: defaults[key] for key in checked.keys() - absent} == {
            key: checked[key] for key in checked.keys() - absent
        }


def test_what_is_not_known_is_refused_with_the_reason() -> None:
    """A model of pictures without a row; a language model that was not tried; keys of on-line conversion are no refusal."""
    with pytest.raises(RefusedError, match=r"FuyuForCausalThings reads pictures beside text.*Known: .*qwen3_vl"):
        family_for({"model_type": "fuyu2", "architectures": ["FuyuForCausalThings"], "vision_config": {}})
    assert not UNPROVEN.keys() & COMPOSITES.keys()
    for name, reason in UNPROVEN.items():
        with pytest.raises(RefusedError, match=f"model_type '{name}': {reason}"):
            family_for({"model_type": name, "text_config": {"model_type": f"{name}_text"}, "vision_config": {}})
    with pytest.raises(RefusedError, match="language model of model_type 'rwkv'"):
        family_for({"model_type": "qwen3_vl", "text_config": {"model_type": "rwkv"}})


def test_a_text_model_with_the_names_of_a_composite_is_one() -> None:
    """The class in `architectures` decides: Gemma3ForCausalLM with a composite's config has no towers."""
    config = {"model_type": "gemma3", "architectures": ["Gemma3ForCausalLM"], "text_config": {"model_type": "gemma3_text"}}
    assert family_for(config).composite is None


@pytest.fixture(scope="module")
def qwen3_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied Qwen3-VL in one file."""
    return composite_checkpoint(tmp_path_factory.mktemp("qwen3_vl") / "source", "qwen3_vl")


def linked(source: Path, folder: Path, *left_out: str) -> Path:
    """A directory with links to the files of another."""
    folder.mkdir()
    for path in source.iterdir():
        if path.name not in left_out:
            (folder / path.name).hardlink_to(path)
    return folder


def test_a_source_without_its_tower_is_an_error(qwen3_vl: Path, tmp_path: Path) -> None:
    """Servers would make one up."""
    source = linked(qwen3_vl, tmp_path / "source", "model.safetensors")
    kept = {k: v for k, v in load_file(qwen3_vl / "model.safetensors").items() if ".visual." not in k}
    save_file(kept, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceError, match=r"1 missing \(model\.visual\.\*\)"):
        jaxconv.convert(source, tmp_path / "out", token_ids=[FALSE, TRUE], backend="numpy")


def test_a_source_without_a_processor_is_an_error(qwen3_vl: Path, tmp_path: Path) -> None:
    """The message names both files."""
    source = linked(qwen3_vl, tmp_path / "source", "preprocessor_config.json")
    with pytest.raises(SourceError, match=r"neither preprocessor_config\.json nor processor_config\.json"):
        jaxconv.convert(source, tmp_path / "out", token_ids=[FALSE, TRUE], backend="numpy")


def test_keys_of_on_line_conversion_go_from_both_levels(qwen3_vl: Path, tmp_path: Path) -> None:
    """vLLM looks in text_config too; `verify` finds one that is left."""
    source = linked(qwen3_vl, tmp_path / "source", "config.json")
    config = config_of(qwen3_vl)
    stale = {"classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": True}
    (source / "config.json").write_text(json.dumps({**config, **stale, "text_config": {**config["text_config"], **stale}}))
    jaxconv.convert(source, tmp_path / "out", token_ids=[FALSE, TRUE], backend="numpy")
    made = config_of(tmp_path / "out")
    assert not stale.keys() & (made.keys() | made["text_config"].keys())
    assert made["text_config"] == config["text_config"]
    assert jaxconv.verify(source, tmp_path / "out", structure_only=True).passed
    made["text_config"]["is_original_qwen3_reranker"] = True
    (tmp_path / "out" / "config.json").write_text(json.dumps(made))
    findings = jaxconv.verify(source, tmp_path / "out", structure_only=True).findings
    assert any("text_config.is_original_qwen3_reranker" in finding for finding in findings)


def test_a_changed_tower_is_found(qwen3_vl: Path, tmp_path: Path) -> None:
    """One element of the vision tower."""
    jaxconv.convert(qwen3_vl, tmp_path / "out", token_ids=[FALSE, TRUE], backend="numpy")
    (path,) = (tmp_path / "out").glob("*.safetensors")
    tensors = load_file(path)
    tensors["model.visual.blocks.1.norm1.bias"][3] += 1
    save_file(tensors, path, {"format": "pt"})
    report = jaxconv.verify(qwen3_vl, tmp_path / "out", structure_only=True)
    assert report.structure.mismatched == ("model.visual.blocks.1.norm1.bias",)


def test_experts_of_a_layer_in_one_tensor(tmp_path: Path) -> None:
    """As files of the hub have those of Qwen3.5's mixtures: copied as they are, of the shape that the config says."""
    source, output = composite_checkpoint(tmp_path / "source", "qwen3_5_moe", tie=False), tmp_path / "output"
    tensors = tensors_of(source)
    for layer in range(4):
        experts = f"model.language_model.layers.{layer}.mlp.experts."
        gate, up, down = (
            torch.stack([tensors.pop(f"{experts}{number}.{name}_proj.weight") for number in range(4)])
            for name in ("gate", "up", "down")
        )
        tensors |= {f"{experts}gate_up_proj": torch.cat([gate, up], 1), f"{experts}down_proj": down}
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    jaxconv.convert(source, output, token_ids=[FALSE, TRUE], backend="numpy")
    check_output(source, output)
    report = jaxconv.verify(source, output)
    assert report.passed and report.scores is not None and report.scores.max_abs_error <= 1e-4, report.findings
    tensors[f"{experts}gate_up_proj"] = tensors[f"{experts}gate_up_proj"].transpose(1, 2).contiguous()
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceError, match=r"experts\.gate_up_proj is \[4, 64, 96\], expected \[4, 96, 64\]"):
        jaxconv.convert(source, output, token_ids=[FALSE, TRUE], backend="numpy", overwrite=True)


@pytest.mark.parametrize("spelling", [0, 1])
@pytest.mark.parametrize("name", ["gemma3", "llava"])
def test_towers_get_the_names_that_vllm_reads(tmp_path: Path, name: str, spelling: int) -> None:
    """SigLIP and CLIP: said, read by transformers, compared by `verify`; hub files keep their names and their bytes."""
    source, output = composite_checkpoint(tmp_path / "source", name, tie=False), tmp_path / "output"
    spellings = COMPOSITES[name].spellings
    if spelling:
        respelled(source, spellings[0], spellings[1])
    plan = jaxconv.convert(source, output, token_ids=[FALSE, TRUE], backend="numpy").plan
    tower = f"{spellings[spelling].towers[0]}vision_model."
    (said,) = (warning for warning in plan.warnings if f"the output has the hub's names ({tower}*)" in warning)
    assert said in (output / "README.md").read_text()
    check_output(source, output)
    towers = [
        AutoModelForImageTextToText.from_pretrained(folder, architectures=[], dtype=torch.bfloat16).model.vision_tower
        for folder in (source, output)
    ]
    states = [dict(tower.state_dict()) for tower in towers]
    assert states[0].keys() == states[1].keys() and all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    (path,) = output.glob("*.safetensors")
    tensors = load_file(path)
    changed = next(name for name in tensors if name.startswith(tower) and name.endswith("bias"))
    tensors[changed][3] += 1
    save_file(tensors, path, {"format": "pt"})
    assert jaxconv.verify(source, output, structure_only=True).structure.mismatched == (changed,)


def test_towers_of_the_hub_stay(tmp_path: Path) -> None:
    """No note, and files that can be linked."""
    source = composite_checkpoint(tmp_path / "source", "llava", tie=False)
    save_file(under_hub_names(tensors_of(source), config_of(source)), source / "model.safetensors", {"format": "pt"})
    plan = jaxconv.convert(source, tmp_path / "output", token_ids=[FALSE, TRUE], backend="numpy").plan
    assert not any("hub's names" in warning for warning in plan.warnings)
    assert plan.model.checkpoint.shards
    assert jaxconv.verify(source, tmp_path / "output", structure_only=True).passed


@pytest.mark.parametrize(
    ("top", "text", "message"),
    [
        (None, True, "true in text_config and none at the top"),
        (False, True, r"has no lm_head\.weight, and tie_word_embeddings in config\.json is false"),
    ],
)
def test_the_flag_at_the_top_counts(qwen3_vl: Path, tmp_path: Path, top: bool | None, text: bool, message: str) -> None:
    """Qwen3-VL's flag is the one at the top; where it is absent and text_config has another, loaders disagree."""
    source = linked(qwen3_vl, tmp_path / "source", "config.json")
    config = config_of(qwen3_vl)
    config["text_config"]["tie_word_embeddings"] = text
    config["tie_word_embeddings"] = top
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(JaxconvError, match=message):
        jaxconv.convert(source, tmp_path / "out", token_ids=[FALSE, TRUE], backend="numpy")


def test_a_flag_of_the_language_model_alone_ties_some_families() -> None:
    """Files of Qwen2.5-VL from before transformers 5 have it there, true, and nothing or false at the top."""
    text = {"model_type": "qwen2_5_vl_text", "tie_word_embeddings": True}
    for top in (None, False):
        config = {"model_type": "qwen2_5_vl", "text_config": text, "tie_word_embeddings": top}
        assert tie_word_embeddings(family_for(config), config) == (True, "true")
    config = {"model_type": "qwen2_5_vl", "text_config": {**text, "tie_word_embeddings": False}}
    assert tie_word_embeddings(family_for(config), config)[0] is False


def test_the_language_model_of_a_config() -> None:
    """Its own keys and those of the composite, under the row's model type; other configs stay."""
    config = {"model_type": "qwen3_vl", "text_config": {"model_type": "qwen3_vl_text", "rope_theta": 1e6}}
    found = language_model(config)
    assert found["model_type"] == "qwen3" and found["rope_theta"] == 1e6
    assert language_model({"model_type": "qwen3"}) == {"model_type": "qwen3"}


@pytest.mark.slow
def test_a_config_without_a_text_config(tmp_path: Path) -> None:
    """Qwen2.5-VL as it is on the hub: the language model's keys at the top, the older spelling of its rotations."""
    source = composite_checkpoint(tmp_path / "source", "qwen2_5_vl", tie=False)
    config = config_of(source)
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    flat = {**text, **config, "model_type": "qwen2_5_vl", "rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    (source / "config.json").write_text(json.dumps(flat))
    jaxconv.convert(source, tmp_path / "output", token_ids=[FALSE, TRUE], backend="numpy")
    check_output(source, tmp_path / "output")
    report = jaxconv.verify(source, tmp_path / "output")
    assert report.passed and report.scores is not None and report.scores.kind == "independent", report.findings
    assert jaxconv.load(tmp_path / "output", backend="torch").max_length == TEXT["max_position_embeddings"]


@pytest.mark.parametrize("rope", [{"mrope_section": [8, 4, 4]}, {"mrope_section": [8, 4, 4], "mrope_interleaved": False}])
def test_positions_that_vllm_would_not_interleave_are_said(qwen3_vl: Path, tmp_path: Path, rope: dict[str, Any]) -> None:
    """vLLM goes by the key, transformers' class does not; pairs of text alone have no such positions."""
    source = linked(qwen3_vl, tmp_path / "source", "config.json")
    config = config_of(qwen3_vl)
    config["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, **rope}
    (source / "config.json").write_text(json.dumps(config))
    warnings = {
        alone: " ".join(jaxconv.inspect(source, token_ids=[FALSE, TRUE], text_only=alone)["warnings"])
        for alone in (False, True)
    }
    assert "no mrope_interleaved true" in warnings[False] and "mrope_interleaved" not in warnings[True]
    whole = jaxconv.inspect(qwen3_vl, token_ids=[FALSE, TRUE])["warnings"]
    assert "mrope_interleaved" not in " ".join(whole)
