"""Directories that are not a model: the message says what each is, and the command in it works."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import jaxconv
from jaxconv.errors import SourceError
from jaxconv.readers import explain
from tests.support.next_steps import OPTIONS, assert_converts_like, refusal, run_next_step, weights
from tests.support.tiny import tiny_checkpoint
from tests.test_adapter import trained


@pytest.fixture
def model(qwen3: Path, tmp_path: Path) -> Path:
    """A model that a test may spoil."""
    return shutil.copytree(qwen3, tmp_path / "model")


def test_adapter_alone(model: Path, tmp_path: Path) -> None:
    """An adapter's directory: the base that it records is converted with it."""
    adapter = trained(model, tmp_path / "adapter")
    message = refusal(adapter, tmp_path / "out")
    assert f"its base is {model}" in message
    run_next_step(message, tmp_path / "out")
    jaxconv.convert(model, tmp_path / "expected", adapter=adapter, **OPTIONS)
    assert all(
        torch.equal(weights(tmp_path / "out")[name], tensor) for name, tensor in weights(tmp_path / "expected").items()
    )


def test_adapter_that_does_not_name_its_base(model: Path, tmp_path: Path) -> None:
    """The message says that BASE has to be put in."""
    adapter = trained(model, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    message = refusal(adapter, tmp_path / "out")
    assert "put it in place of BASE" in message
    run_next_step(message, tmp_path / "out", base=model)


def test_trainer_output(model: Path, tmp_path: Path) -> None:
    """The newest of its checkpoints by number; where they are adapters, the command for an adapter."""
    run = tmp_path / "run"
    (run / "runs").mkdir(parents=True)
    (run / "checkpoint-900").mkdir()
    shutil.copytree(model, run / "checkpoint-1000")
    message = refusal(run, tmp_path / "out")
    assert "checkpoint-900, checkpoint-1000" in message
    run_next_step(message, tmp_path / "out")
    shutil.rmtree(run / "checkpoint-1000")
    trained(model, run / "checkpoint-1000")
    message = refusal(run, tmp_path / "out2")
    assert "trainer" in message and "is a PEFT adapter" in message
    run_next_step(message, tmp_path / "out2")


def test_hub_cache(model: Path, tmp_path: Path) -> None:
    """An entry of the hub's cache: the snapshot of refs/main; the cache itself: a model of it, offline."""
    commit = "0" * 40
    entry = tmp_path / "hub" / "models--team--reranker"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text(commit)
    shutil.copytree(model, entry / "snapshots" / commit)
    (entry / "snapshots" / ("f" * 40)).mkdir()
    message = refusal(entry, tmp_path / "out")
    assert f"snapshots/{commit}" in message
    run_next_step(message, tmp_path / "out")
    message = refusal(tmp_path / "hub", tmp_path / "out2")
    assert "team/reranker" in message
    run_next_step(message, tmp_path / "out2")


def test_fsdp_shards(model: Path, tmp_path: Path) -> None:
    """What accelerate saves of FSDP is merged by accelerate."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, checkpoint)
    tensors = load_file(model / "model.safetensors")
    dcp.save({"model": tensors}, checkpoint_id=str(checkpoint / "pytorch_model_fsdp_0"), no_dist=True)
    message = refusal(checkpoint, tmp_path / "out")
    assert "pytorch_model_fsdp_0" in message
    assert_converts_like(message, model, tmp_path)


def test_whole_fsdp_state(model: Path, tmp_path: Path) -> None:
    """FSDP's full state is a model under another name."""
    tensors = load_file(model / "model.safetensors")
    torch.save(tensors, model / "pytorch_model_fsdp.bin")
    whole = shutil.copytree(model, tmp_path / "whole")
    (model / "model.safetensors").unlink()
    assert_converts_like(refusal(model, tmp_path / "out"), whole, tmp_path)


def test_shards_without_an_index(tmp_path: Path) -> None:
    """The index is written; of one shard the name is changed; a missing shard is named."""
    source = tiny_checkpoint(tmp_path / "source", "qwen3", shards=3)
    whole = shutil.copytree(source, tmp_path / "whole")
    (source / "model.safetensors.index.json").unlink()
    message = refusal(source, tmp_path / "out")
    last = sorted(source.glob("*.safetensors"))[-1]
    run_shards = message.replace("jaxconv convert", "jaxconv convert --dtype float32")  # one file, to be compared
    jaxconv.convert(whole, tmp_path / "expected", dtype="float32", **OPTIONS)
    run_next_step(run_shards, tmp_path / "out")
    assert weights(tmp_path / "out").keys() == weights(tmp_path / "expected").keys()
    AutoModelForCausalLM.from_pretrained(source)  # which needs an index with metadata
    (source / "model.safetensors.index.json").unlink()
    last.unlink()
    assert f"number {last.name.split('-')[1].lstrip('0')} is missing" in refusal(source, tmp_path / "out2")


def test_one_shard_without_an_index(model: Path, tmp_path: Path) -> None:
    """A single file that is called a shard."""
    whole = shutil.copytree(model, tmp_path / "whole")
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    assert_converts_like(refusal(model, tmp_path / "out"), whole, tmp_path)


def edit_config(model: Path, **changes: object) -> None:
    """Changes config.json; None removes a key."""
    config = json.loads((model / "config.json").read_text()) | changes
    (model / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_quantization_config_over_plain_tensors(model: Path, tmp_path: Path) -> None:
    """The message says which key to remove, and without it the model converts."""
    edit_config(model, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "remove quantization_config from config.json" in refusal(model, tmp_path / "out")
    edit_config(model, quantization_config=None)
    jaxconv.convert(model, tmp_path / "out", **OPTIONS)


@pytest.mark.parametrize("name", ["PeftModelForCausalLM", "FSDPQwen3ForCausalLM", "OptimizedModule", "LigerQwen3ForCausalLM"])
def test_wrapper_in_architectures(model: Path, tmp_path: Path, name: str) -> None:
    """The class that should stand in config.json is in the message, ready to be put in."""
    edit_config(model, architectures=[name])
    message = refusal(model, tmp_path / "out")
    assert name in message and "wrapper" in message
    line = re.search(r'Set "architectures": (\[.*\]) in', message)
    assert line is not None
    edit_config(model, architectures=json.loads(line[1]))
    jaxconv.convert(model, tmp_path / "out", **OPTIONS)


def test_resized_vocabulary(model: Path, tmp_path: Path) -> None:
    """The base is resized by the command, and the adapter brings the new rows."""
    adapter = trained(model, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    rows = torch.randn(324, 64)
    ends = {f"base_model.model.{name}.weight": rows.clone() for name in ("model.embed_tokens", "lm_head")}
    save_file({**load_file(path), **ends}, path)
    with pytest.raises(SourceError, match="324 rows, the base has 320") as caught:
        jaxconv.convert(model, tmp_path / "out", adapter=adapter, **OPTIONS)
    run_next_step(str(caught.value), tmp_path / "out")
    assert torch.equal(weights(tmp_path / "out")["model.embed_tokens.weight"], rows.bfloat16())


def test_a_directory_of_something_else_is_not_explained(tmp_path: Path) -> None:
    """No guess where nothing is known."""
    (tmp_path / "notes.txt").write_text("x")
    assert explain(tmp_path) is None
    assert explain(tmp_path / "absent") is None
