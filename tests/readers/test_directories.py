"""Directories that are not a model: the message says what each is, and the command in it works."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import jaxconv
from jaxconv.errors import RefusedError, SourceError
from jaxconv.readers import explain
from tests.support.tiny import tiny_checkpoint
from tests.test_adapter import trained

TOKENS = ["--classifier-from-tokens", '["no","yes"]', "--backend", "numpy"]
OPTIONS = {"classifier_from_tokens": ["no", "yes"], "backend": "numpy"}


@pytest.fixture
def model(qwen3: Path, tmp_path: Path) -> Path:
    """A model that a test may spoil."""
    return shutil.copytree(qwen3, tmp_path / "model")


def refusal(source: Path, output: Path) -> str:
    """The message with which a source is refused."""
    with pytest.raises((SourceError, RefusedError)) as caught:
        jaxconv.convert(source, output, **OPTIONS)
    assert not output.exists()
    return str(caught.value)


def run_next_step(message: str, output: Path, base: Path | None = None) -> None:
    """Runs the shell command at the end of a message, OUTPUT and BASE filled in, the tokens added to the conversion."""
    command = re.search(r": ((?:python|jaxconv|mv|accelerate|hf|env) .*OUTPUT.*)$", message)
    assert command is not None, message
    text = command[1].replace("OUTPUT", str(output)).replace("BASE", str(base))
    text += "".join(f" '{token}'" for token in TOKENS)
    scripts = output.parent / "bin"
    scripts.mkdir(exist_ok=True)
    for name, line in {"jaxconv": "-m jaxconv", "python": "", "accelerate": "-m accelerate.commands.accelerate_cli"}.items():
        (scripts / name).write_text(f'#!/bin/sh\nexec {sys.executable} {line} "$@"\n')
        (scripts / name).chmod(0o755)
    root = Path(jaxconv.__file__).parents[1]
    environment = os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}", "PYTHONPATH": str(root)}
    result = subprocess.run(["sh", "-c", text], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{text}\n{result.stderr}"
    assert (output / "model.safetensors").is_file()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an output."""
    return load_file(folder / "model.safetensors")


def assert_converts_like(message: str, source: Path, tmp_path: Path) -> None:
    """The next step of a message gives the tensors that the whole source gives."""
    jaxconv.convert(source, tmp_path / "expected", **OPTIONS)
    run_next_step(message, tmp_path / "out")
    ours, expected = weights(tmp_path / "out"), weights(tmp_path / "expected")
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


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


def test_deepspeed_zero(model: Path, tmp_path: Path) -> None:
    """The script that DeepSpeed leaves in the directory is run; here a stand-in that takes its arguments."""
    checkpoint = tmp_path / "checkpoint"
    (checkpoint / "global_step10").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, checkpoint)
    script = (
        "import shutil, sys, pathlib\n"
        "source, target, flag = sys.argv[1:]\n"
        "assert flag == '--safe_serialization' and (pathlib.Path(source) / 'global_step10').is_dir()\n"
        f"pathlib.Path(target).mkdir(); shutil.copy({str(model / 'model.safetensors')!r}, target)\n"
    )
    (checkpoint / "zero_to_fp32.py").write_text(script)
    message = refusal(checkpoint, tmp_path / "out")
    assert "ZeRO" in message
    run_next_step(message, tmp_path / "out")


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


@pytest.mark.parametrize("place", ["", "actor", "global_step_20/actor"])
def test_verl_shards(tmp_path: Path, place: str) -> None:
    """verl's merger is named, with the directory of the actor. (verl is not installed here: its command is compared.)"""
    actor = tmp_path / "run" / place
    actor.mkdir(parents=True)
    (actor / "model_world_size_2_rank_0.pt").write_bytes(b"x")
    message = refusal(tmp_path / "run", tmp_path / "out")
    merged = tmp_path / "run" / "merged"
    expected = (
        f"python -m verl.model_merger merge --backend fsdp --local_dir {actor} --target_dir {merged} && jaxconv convert"
    )
    assert expected in message


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


def renamed(model: Path, change: Callable[[str], str]) -> None:
    """Changes the names of the model's tensors."""
    path = model / "model.safetensors"
    save_file({change(name): tensor.clone() for name, tensor in load_file(path).items()}, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "wrapper"),
    [
        (lambda name: f"_orig_mod.{name}", "torch.compile"),
        (lambda name: f"module.{name}", "DDP"),
        (lambda name: f"base_model.model.{name}", "PEFT"),
        (lambda name: f"module._orig_mod.{name}", "torch.compile"),
        (lambda name: name.replace("layers.", "_fsdp_wrapped_module.layers."), "FSDP"),
        (lambda name: f"model.{name}", "model."),
        (lambda name: f"policy.{name}", "policy."),
    ],
    ids=["compile", "module", "peft", "both", "fsdp", "lightning", "any"],
)
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
def test_names_under_a_prefix(model: Path, tmp_path: Path, change: Callable[[str], str], wrapper: str, pickled: bool) -> None:
    """The prefix is named with who puts it there, and the command writes a copy without it."""
    whole = shutil.copytree(model, tmp_path / "whole")
    renamed(model, change)
    if pickled:
        torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
        (model / "model.safetensors").unlink()
    message = refusal(model, tmp_path / "out")
    assert wrapper in message
    assert_converts_like(message, whole, tmp_path)
    assert model.is_dir() and (tmp_path / "model-unwrapped").is_dir()


def test_names_under_a_prefix_in_shards(tmp_path: Path) -> None:
    """The index of the copy has the new names."""
    source = tiny_checkpoint(tmp_path / "source", "qwen3", shards=3)
    for path in source.glob("*.safetensors"):
        save_file({f"module.{name}": tensor.clone() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    index = source / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"] = {f"module.{name}": file for name, file in document["weight_map"].items()}
    index.write_text(json.dumps(document))
    message = refusal(source, tmp_path / "out").replace("jaxconv convert", "jaxconv convert --dtype float32")
    run_next_step(message, tmp_path / "out")


def test_empty_tensors_of_zero(model: Path, tmp_path: Path) -> None:
    """Tensors of shape [0] are said to be ZeRO-3's, with the script that gathers them."""
    path = model / "model.safetensors"
    save_file({name: torch.empty(0, dtype=torch.bfloat16) for name in load_file(path)}, path, {"format": "pt"})
    message = refusal(model, tmp_path / "out")
    assert "shape [0]" in message and "zero_to_fp32.py" in message


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


def test_unmerged_peft_model(model: Path, tmp_path: Path) -> None:
    """LoRA factors among the weights are not a model; the message says how to get the adapter out."""
    path = model / "model.safetensors"
    tensors = {f"base_model.model.{name}": tensor for name, tensor in load_file(path).items()}
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"] = torch.zeros(4, 64)
    save_file(tensors, path, {"format": "pt"})
    assert "--adapter" in refusal(model, tmp_path / "out")


def test_a_directory_of_something_else_is_not_explained(tmp_path: Path) -> None:
    """No guess where nothing is known."""
    (tmp_path / "notes.txt").write_text("x")
    assert explain(tmp_path) is None
    assert explain(tmp_path / "absent") is None


def test_paths_are_quoted(model: Path, tmp_path: Path) -> None:
    """A directory with blanks and quotes in its name works in the command."""
    odd = tmp_path / "it's a model"
    model.rename(odd)
    renamed(odd, lambda name: f"module.{name}")
    run_next_step(refusal(odd, tmp_path / "out"), tmp_path / "out")
    assert stat.S_ISDIR((tmp_path / "it's a model-unwrapped").stat().st_mode)
