"""`--text-only`: the language model of a composite alone, as the plain family's own class has it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder
from transformers import AutoConfig, AutoModelForSequenceClassification

import jaxconv
from jaxconv.errors import RefusedError, UsageError
from jaxconv.families import COMPOSITES, FAMILIES, family_for, text_only_config
from tests.families.test_multimodal import FALSE, NAMES, TRUE, config_of, respelled, tensors_of, type_of
from tests.support.multimodal import composite_checkpoint

TOKENS = {"token_ids": [FALSE, TRUE], "backend": "numpy"}
# Sizes that no source may leave out.
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "layer_types")
PROCESSOR = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")


def text_only(source: Path, output: Path, **options: Any) -> Path:
    """The converted language model."""
    jaxconv.convert(source, output, text_only=True, **TOKENS | options)
    return output


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_language_model_is_that_of_the_source(tmp_path: Path, name: str, tie: bool) -> None:
    """Every tensor bit for bit under the plain class's names, no tower, no processor; transformers' class takes it whole."""
    source = composite_checkpoint(tmp_path / "source", name, tie=tie, shards=3 if tie else 1)
    output = text_only(source, tmp_path / "output")
    before, after, config = tensors_of(source), tensors_of(output), config_of(output)
    family = family_for(config_of(source)).spelled_as(before)
    prefix = family.head.embedding.removesuffix("embed_tokens.weight")
    expected = {f"model.{key.removeprefix(prefix)}": value for key, value in before.items() if key.startswith(prefix)}
    expected = {
        key: value for key, value in expected.items() if not family.passes_through(prefix + key.removeprefix("model."))
    }
    assert after.keys() == {*expected, "score.weight"}
    assert all(torch.equal(after[key], value) for key, value in expected.items())
    rows = before.get(family.head.weight, before[family.head.embedding]).float()
    assert torch.equal(after["score.weight"], (rows[TRUE] - rows[FALSE])[None])
    row = COMPOSITES[type_of(name)].texts[config_of(source)["text_config"]["model_type"]]
    assert config["model_type"] == row and "text_config" not in config and "vision_config" not in config
    assert config["tie_word_embeddings"] is tie
    assert not [path for path in PROCESSOR if (output / path).exists()]
    record = json.loads((output / "jaxconv.json").read_text())
    assert record["text_only"] is True and any("takes pairs of text and no pictures" in text for text in record["warnings"])
    assert "takes pairs of text and no pictures" in (output / "README.md").read_text()
    report = jaxconv.verify(source, output, structure_only=True)
    assert report.passed, report.findings
    if FAMILIES[row].transformers_seq_cls:
        _, info = AutoModelForSequenceClassification.from_pretrained(output, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.slow
@pytest.mark.parametrize("spelling", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_whole_model(tmp_path: Path, name: str, spelling: int) -> None:
    """transformers' causal LM with its towers against JAX's, transformers' and CrossEncoder's classifier without them."""
    source = composite_checkpoint(tmp_path / "source", name, tie=False)
    spellings = COMPOSITES[type_of(name)].spellings
    written = family_for(config_of(source)).spelled_as(load_file(source / "model.safetensors"))
    before = next(entry for entry in spellings if f"{entry.prefix}embed_tokens.weight" == written.head.embedding)
    if spellings[spelling] != before:
        respelled(source, before, spellings[spelling])
    # transformers has no classifier of Qwen3.5's mixture of experts, so CrossEncoder gets modules.
    output = text_only(source, tmp_path / "output", consumers=("vllm", "sentence-transformers"))
    report = jaxconv.verify(source, output)
    assert report.passed and report.scores is not None, report.findings
    assert report.scores.max_abs_error <= 1e-4
    assert any(f"those of {written.architecture}, towers included" in note for note in report.notes)
    encoder = CrossEncoder(str(output), device="cpu", model_kwargs={"dtype": torch.float32})
    raw = encoder.predict(report.scores.scored, activation_fn=torch.nn.Identity())
    assert [float(score) for score in raw] == pytest.approx([row[0] for row in report.scores.source], abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_absent_keys_mean_the_same(name: str) -> None:
    """Of an empty text_config every key that both classes have: what the composite takes it for, the output says or takes."""
    model_type = type_of(name)
    for text_type, row in COMPOSITES[model_type].texts.items():
        config = {"model_type": model_type, "text_config": {"model_type": text_type}}
        made = text_only_config(config, family_for(config))
        theirs = AutoConfig.for_model(text_type).get_text_config().to_dict()
        plain = AutoConfig.for_model(**{**made, "model_type": row}).to_dict()
        ignored = {
            "model_type", "architectures", "tie_word_embeddings", "_name_or_path", "transformers_version", "dtype",
            "bos_token_id", "eos_token_id", "pad_token_id", "rope_parameters", "base_config_key",
            *REQUIRED,
        }  # fmt: skip
        differing = {
            key: (value, plain[key])
            for key, value in theirs.items()
            if key in plain and key not in ignored and plain[key] != value
        }
        assert not differing, (text_type, differing)
        ours, right = plain.get("rope_parameters") or {}, theirs.get("rope_parameters") or {}
        assert {key: value for key, value in right.items() if not key.startswith("mrope")} == ours


@pytest.mark.slow
def test_a_config_without_a_text_config(tmp_path: Path) -> None:
    """Qwen2.5-VL as it is on the hub: keys of pictures go, the older spelling of the rotations says nothing any more."""
    source = composite_checkpoint(tmp_path / "source", "qwen2_5_vl", tie=False)
    config = config_of(source)
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    flat = {**text, **config, "model_type": "qwen2_5_vl", "rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    (source / "config.json").write_text(json.dumps(flat))
    output = text_only(source, tmp_path / "output")
    made = config_of(output)
    assert made["rope_scaling"] is None and made["rope_theta"] == rope["rope_theta"]
    assert not [key for key in made if key.startswith(("vision_", "image_", "video_"))]
    report = jaxconv.verify(source, output)
    assert report.passed and report.scores is not None and report.scores.kind == "independent", report.findings


def test_what_it_is_not_for_is_refused(tmp_path: Path) -> None:
    """A model of text alone; an adapter."""
    source = composite_checkpoint(tmp_path / "source", "qwen3_vl")
    with pytest.raises(RefusedError, match=r"an adapter"):
        text_only(source, tmp_path / "out", adapter=tmp_path)
    once = tmp_path / "text"
    shutil.copytree(source, once)
    config = config_of(source)
    (once / "config.json").write_text(json.dumps({**config["text_config"], "model_type": "qwen3"}))
    with pytest.raises(UsageError, match=r"Qwen3ForCausalLM reads text alone\. Leave it out"):
        text_only(once, tmp_path / "out")


def test_inspect_says_what_it_would_be(tmp_path: Path) -> None:
    """The source's own size, and the plain class."""
    source = composite_checkpoint(tmp_path / "source", "qwen3_vl")
    whole = jaxconv.inspect(source, token_ids=[FALSE, TRUE])
    alone = jaxconv.inspect(source, token_ids=[FALSE, TRUE], text_only=True)
    assert alone["num_parameters"] == whole["num_parameters"] and alone["bytes"] == whole["bytes"]
    assert (whole["target_architecture"], alone["target_architecture"]) == (
        "Qwen3VLForSequenceClassification", "Qwen3ForSequenceClassification",
    )  # fmt: skip


@pytest.mark.slow
def test_a_changed_key_is_found(tmp_path: Path) -> None:
    """Another base of the rotations, and a tower that was left in."""
    source = composite_checkpoint(tmp_path / "source", "qwen3_vl")
    output = text_only(source, tmp_path / "output")
    config = config_of(output)
    config["rope_parameters"]["rope_theta"] = 20000.0
    (output / "config.json").write_text(json.dumps(config))
    report = jaxconv.verify(source, output)
    assert not report.passed and any("rope_theta" in finding for finding in report.findings)
    assert report.scores is not None and report.scores.max_abs_error > 1e-4


def test_windows_that_only_the_plain_family_has_are_refused() -> None:
    """transformers' Qwen3-VL leaves them out; a Qwen3 of the same numbers would not."""
    text = {"model_type": "qwen3_vl_text", "sliding_window": 64, "max_window_layers": 1}
    config: dict[str, Any] = {"model_type": "qwen3_vl", "text_config": text | {"use_sliding_window": False}}
    assert family_for(config).composite is COMPOSITES["qwen3_vl"]
    with pytest.raises(RefusedError, match=r"use_sliding_window true; .* Expected false"):
        family_for(config | {"text_config": text | {"use_sliding_window": True}})
