"""Checkpoints that transformers reads although names, index or dtype are not what it writes itself: the same output."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import jaxconv
from jaxconv.errors import RefusedError, SourceError
from jaxconv.readers import safetensors
from jaxconv.writer.shards import SCORE_FILE
from tests.support.scores import causal_logits, classifier_logits
from tests.support.tiny import tiny_checkpoint, tokenizer
from tests.test_adapter import trained

OPTIONS = {"classifier_from_tokens": ["no", "yes"], "backend": "numpy"}
HEAD, EMBEDDING, INDEX = "lm_head.weight", "model.embed_tokens.weight", "model.safetensors.index.json"
PROMPTS = ["yes it is", "no\nthat the this", "the other thing"]


@pytest.fixture
def model(qwen3: Path, tmp_path: Path) -> Path:
    """A tied model in one file that a test may change."""
    return shutil.copytree(qwen3, tmp_path / "model")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A tied model in three shards."""
    return tiny_checkpoint(tmp_path / "sharded", "qwen3", tie=True, shards=3)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Changes the tensors of model.safetensors."""
    path = folder / "model.safetensors"
    changed = {name: tensor.clone() for name, tensor in change(load_file(path)).items()}
    save_file(changed, path, {"format": "pt"})


def output_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of an output."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def assert_same_output(source: Path, reference: Path, tmp_path: Path) -> jaxconv.ConversionResult:
    """Both sources convert to the same names and bits."""
    result = jaxconv.convert(source, tmp_path / "out", **OPTIONS)
    jaxconv.convert(reference, tmp_path / "reference", **OPTIONS)
    ours, expected = output_tensors(tmp_path / "out"), output_tensors(tmp_path / "reference")
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.dtype == ours[name].dtype and torch.equal(tensor, ours[name]), name
    assert jaxconv.verify(source, tmp_path / "out", structure_only=True).findings == ()
    return result


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.removeprefix("model."),
        lambda name: name.replace("model.", "model.language_model.", 1),
        lambda name: f"language_model.{name}",
    ],
    ids=["bare", "composite", "language_model"],
)
def test_names_of_another_level(tmp_path: Path, change: Callable[[str], str], tie: bool) -> None:
    """A bare backbone and a composite's text model, tied and untied; link mode says that it wrote the file anew."""
    reference = tiny_checkpoint(tmp_path / "model", "qwen3", tie=tie)
    source = shutil.copytree(reference, tmp_path / "source")
    rewrite(source, lambda tensors: {change(name): tensor for name, tensor in tensors.items()})
    result = assert_same_output(source, reference, tmp_path)
    assert any("renamed" in warning and "link" in warning for warning in result.plan.warnings)
    linked = jaxconv.convert(source, tmp_path / "linked", copy_mode="link", **OPTIONS)
    assert dict(linked.files) == {"model.safetensors": "write"}


def test_a_text_model_out_of_a_composite_scores_as_in_transformers(tmp_path: Path) -> None:
    """Qwen3.5, saved through AutoModelForCausalLM as Prism-Qwen3.5-Reranker was: transformers keeps the composite's names."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
             "linear_num_value_heads": 4, "linear_value_head_dim": 8, "max_position_embeddings": 512,
             "tie_word_embeddings": True}  # fmt: skip
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64,
              "num_position_embeddings": 16}  # fmt: skip
    torch.manual_seed(0)
    config = Qwen3_5Config(text_config=sizes, vision_config=vision, tie_word_embeddings=True)
    Qwen3_5ForConditionalGeneration(config).save_pretrained(tmp_path / "composite")
    source = tmp_path / "source"
    AutoModelForCausalLM.from_pretrained(tmp_path / "composite", dtype=torch.float32).save_pretrained(source)
    tokenizer(False).save_pretrained(source)
    assert any("language_model" in name for name in load_file(source / "model.safetensors"))
    jaxconv.convert(source, tmp_path / "out", **OPTIONS)
    assert not any("language_model" in name for name in output_tensors(tmp_path / "out"))
    scores, _ = classifier_logits(tmp_path / "out", PROMPTS)
    logits = causal_logits(source, PROMPTS, tokenizer(False).convert_tokens_to_ids(["no", "yes"]))
    assert (scores[:, 0] - (logits[:, 1] - logits[:, 0])).abs().max() <= 1e-4


def test_an_index_that_names_only_the_single_file(model: Path, tmp_path: Path) -> None:
    """MLX writes one beside model.safetensors; an index of other files is still refused."""
    reference = shutil.copytree(model, tmp_path / "plain")
    names = list(load_file(model / "model.safetensors"))
    (model / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
    assert_same_output(model, reference, tmp_path)
    stale = dict.fromkeys(names, "model.safetensors") | {names[0]: "model-00001-of-00002.safetensors"}
    (model / INDEX).write_text(json.dumps({"weight_map": stale}))
    with pytest.raises(SourceError, match="remove the one that is stale"):
        jaxconv.convert(model, tmp_path / "stale", **OPTIONS)


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Changes the weight map of an index."""
    document = json.loads((folder / INDEX).read_text())
    change(document["weight_map"])
    (folder / INDEX).write_text(json.dumps(document))


def test_an_index_that_lists_a_tied_head(sharded: Path, tmp_path: Path) -> None:
    """The head is the embedding; of an untied model the missing head is an error."""
    reference = shutil.copytree(sharded, tmp_path / "plain")
    edit_index(sharded, lambda weight_map: weight_map.update({HEAD: next(iter(weight_map.values()))}))
    assert_same_output(sharded, reference, tmp_path)
    config = json.loads((sharded / "config.json").read_text())
    (sharded / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(SourceError, match=re.escape(HEAD)):
        jaxconv.convert(sharded, tmp_path / "untied", **OPTIONS)


def test_an_index_that_leaves_out_a_buffer(sharded: Path, tmp_path: Path) -> None:
    """Rotary frequencies of old files are computed anew by every loader."""
    reference = shutil.copytree(sharded, tmp_path / "plain")
    shard = sorted(sharded.glob("*.safetensors"))[0]
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    save_file(load_file(shard) | buffer, shard, {"format": "pt"})
    assert_same_output(sharded, reference, tmp_path)


@pytest.mark.parametrize("equal", [True, False])
def test_a_tied_head_in_another_dtype(model: Path, tmp_path: Path, equal: bool) -> None:
    """Equal values are one head, whatever the dtype; others are refused."""
    reference = shutil.copytree(model, tmp_path / "plain")
    rewrite(model, lambda tensors: tensors | {HEAD: tensors[EMBEDDING].float() + (0.0 if equal else 1e-3)})
    if equal:
        assert_same_output(model, reference, tmp_path)
    else:
        with pytest.raises(RefusedError, match="differ"):
            jaxconv.convert(model, tmp_path / "out", **OPTIONS)


@pytest.mark.parametrize("pattern", ["model.safetensors-{0:05d}-of-00003.safetensors", "weights_{0}.safetensors"])
def test_shards_of_other_names_are_kept(sharded: Path, tmp_path: Path, pattern: str) -> None:
    """Names that end in .safetensors are read by every loader through the index, so files are linked as they are."""
    reference = shutil.copytree(sharded, tmp_path / "plain")
    rename_shards(sharded, pattern)
    assert_same_output(sharded, reference, tmp_path)
    result = jaxconv.convert(sharded, tmp_path / "linked", copy_mode="link", **OPTIONS)
    assert set(result.files) == {SCORE_FILE, *(path.name for path in sharded.glob("*.safetensors"))}
    assert "link" in result.files.values()
    loaded = AutoModelForCausalLM.from_pretrained(sharded, dtype=torch.bfloat16).state_dict()
    assert torch.equal(loaded[EMBEDDING], output_tensors(tmp_path / "linked")[EMBEDDING])


@pytest.mark.parametrize("pattern", ["part{0}.bin", "model-score.safetensors"])
def test_shards_whose_names_no_loader_reads_are_renamed(sharded: Path, tmp_path: Path, pattern: str) -> None:
    """vLLM looks for *.safetensors, and model-score.safetensors is the output's own."""
    reference = shutil.copytree(sharded, tmp_path / "plain")
    rename_shards(sharded, pattern, only_first="{" not in pattern)
    result = assert_same_output(sharded, reference, tmp_path)
    assert all(name.startswith("model") and name.endswith(".safetensors") for name in result.files)


def rename_shards(folder: Path, pattern: str, only_first: bool = False) -> None:
    """Gives the shards other names, in the index too."""
    shards = sorted(folder.glob("model-*.safetensors"))[: 1 if only_first else None]
    names = {path.name: pattern.format(number) for number, path in enumerate(shards, 1)}
    for old, new in names.items():
        (folder / old).rename(folder / new)

    def change(weight_map: dict[str, str]) -> None:
        weight_map.update({name: names.get(file, file) for name, file in weight_map.items()})

    edit_index(folder, change)


def test_names_of_the_writer_are_reserved() -> None:
    """The reader's list holds the file that the writer adds."""
    assert SCORE_FILE in safetensors.RESERVED


def test_what_lies_beside_the_weights_is_said(model: Path, tmp_path: Path) -> None:
    """An adapter, with the flag that applies it; optimizer state; a second format; nothing of it changes the output."""
    reference = shutil.copytree(model, tmp_path / "plain")
    adapter = trained(model, tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, model)
    (model / "optimizer.pt").write_bytes(b"x")
    (model / "pytorch_model.bin").write_bytes(b"x")
    (model / "model-q4.gguf").write_bytes(b"x")
    result = assert_same_output(model, reference, tmp_path)
    warnings = " ".join(result.plan.warnings)
    assert "PEFT adapter (adapter_config.json, adapter_model.safetensors), which is not applied" in warnings
    assert "optimizer.pt" in warnings and "model-q4.gguf, pytorch_model.bin, which is not read" in warnings
    assert "adapter_model" not in " ".join(warnings.split("PEFT adapter (")[1].split(")")[1:])
    flag = re.search(r"pass --adapter (\S+)$", next(text for text in result.plan.warnings if "--adapter" in text))
    assert flag is not None
    merged = jaxconv.convert(model, tmp_path / "merged", adapter=flag[1], **OPTIONS)
    assert "not applied" not in " ".join(merged.plan.warnings)
    jaxconv.convert(reference, tmp_path / "expected", adapter=adapter, **OPTIONS)
    assert (tmp_path / "merged/model.safetensors").read_bytes() == (tmp_path / "expected/model.safetensors").read_bytes()
    plain = jaxconv.inspect(reference, token_ids=[5, 6])["warnings"]
    assert not any("beside" in text or "also holds" in text for text in plain)
