"""The family table against transformers' own models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jaxconv.errors import JaxconvError, RefusedError, SourceError
from jaxconv.families import check_backbone, family_for, find_lm_head
from jaxconv.families.table import FAMILIES as TABLE
from jaxconv.readers import open_checkpoint
from tests.support.tiny import FAMILIES, tiny_checkpoint

OPTIONS = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {"attention_bias": True},
    "gemma": {"attention_bias": True},
    "cohere": {"attention_bias": True},
}


def test_every_family_is_tried() -> None:
    """No row of the table goes without a real model."""
    assert set(TABLE) == set(FAMILIES)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_names_and_shapes_are_transformers_own(tmp_path: Path, model_type: str, tie: bool) -> None:
    """The table lists exactly the tensors that transformers saves, plus the head when untied."""
    source = tiny_checkpoint(tmp_path, model_type, tie=tie, **OPTIONS.get(model_type, {}))
    config = json.loads((source / "config.json").read_text())
    checkpoint, family = open_checkpoint(source), family_for(config)
    stored = {name: ref.shape for name, ref in checkpoint.tensors.items() if not name.startswith("lm_head.")}
    assert stored == {name: parameter.shape for name, parameter in family.parameters(config).items()}
    assert find_lm_head(checkpoint, family, config).tied is tie
    assert config["architectures"] == [family.architecture]


@pytest.mark.parametrize("change", ["remove", "add", "reshape"])
def test_a_wrong_tensor_is_named(tmp_path: Path, change: str) -> None:
    """A missing, unexpected or misshaped backbone tensor is an error that names it."""
    source = tiny_checkpoint(tmp_path, "qwen3")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    if change == "remove":
        del tensors[name]
    elif change == "add":
        name = "model.layers.1.mlp.extra.weight"
        tensors[name] = tensors["model.norm.weight"].clone()
    else:
        tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    with pytest.raises(SourceError, match=name):
        check_backbone(open_checkpoint(source), family_for(config), config)


def test_a_draft_head_is_no_part_of_the_classifier(tmp_path: Path) -> None:
    """Tensors of Qwen3.5's multi-token prediction are left out; in another family they are unexpected."""
    for model_type in ("qwen3_5_text", "qwen3"):
        source = tiny_checkpoint(tmp_path / model_type, model_type)
        tensors = load_file(source / "model.safetensors")
        backbone = {name for name in tensors if name != "lm_head.weight"}
        save_file({**tensors, "mtp.norm.weight": torch.ones(64)}, source / "model.safetensors", {"format": "pt"})
        config = json.loads((source / "config.json").read_text())
        if model_type == "qwen3":
            with pytest.raises(SourceError, match=r"unexpected \(mtp.norm.weight\)"):
                check_backbone(open_checkpoint(source), family_for(config), config)
        else:
            assert set(check_backbone(open_checkpoint(source), family_for(config), config)) == backbone


def test_layer_types_decide_the_tensors(tmp_path: Path) -> None:
    """Without layer_types every fourth layer has full attention; another pattern, or an unknown kind, is an error."""
    source = tiny_checkpoint(tmp_path, "qwen3_5_text")
    config = json.loads((source / "config.json").read_text())
    types = config.pop("layer_types")
    checkpoint = open_checkpoint(source)
    assert check_backbone(checkpoint, family_for(config), config)
    with pytest.raises(SourceError, match=r"layers.0.linear_attn.A_log"):
        check_backbone(checkpoint, family_for(config), {**config, "layer_types": types[::-1]})
    with pytest.raises(SourceError, match=r"expected 4 of linear_attention, full_attention"):
        check_backbone(checkpoint, family_for(config), {**config, "layer_types": ["sliding_attention"] * 4})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"]}, "classifier already"),
        ({"model_type": "qwen3", "architectures": ["JinaForRanking"]}, "compares embeddings"),
        ({"model_type": "minicpm", "architectures": ["MiniCPMForCausalLM"]}, "scaled before the head"),
        ({"model_type": "no_such_model"}, "does not know, and transformers .* has no model of this type"),
        ({"model_type": "clip_text_model"}, "does not know, and transformers .* has no causal LM of this type"),
        ({}, "None"),
        ({"model_type": "qwen3", "is_causal": False}, "bidirectional"),
        ({"model_type": "qwen3", "architectures": ["Qwen3Model"]}, "ends in ForCausalLM"),
    ],
)
def test_refusals_say_why(config: dict[str, object], reason: str) -> None:
    """A config that is not a decoder with a linear head is refused with the reason."""
    with pytest.raises(RefusedError, match=reason):
        family_for(config)


def test_tied_flag_against_the_file(tmp_path: Path) -> None:
    """Tied with an equal lm_head passes, with a different one is refused; untied without one is an error."""
    source = tiny_checkpoint(tmp_path, "llama", tie=False)
    config = json.loads((source / "config.json").read_text())
    tensors, family = load_file(source / "model.safetensors"), family_for(config)
    tied = config | {"tie_word_embeddings": True}
    with pytest.raises(RefusedError, match="tie_word_embeddings"):
        find_lm_head(open_checkpoint(source), family, tied)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    assert find_lm_head(open_checkpoint(source), family, tied).tied
    del tensors["lm_head.weight"]
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(JaxconvError, match="no lm_head"):
        find_lm_head(open_checkpoint(source), family, config)
