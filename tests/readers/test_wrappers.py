"""Names that a training wrapper changed, LoRA tensors among the weights, tensors without values: the next step works."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import jaxconv
from tests.support.hub import serving
from tests.support.next_steps import OPTIONS, assert_converts_like, refusal, refusal_of_command, run_next_step, weights
from tests.support.tiny import tiny_checkpoint
from tests.test_adapter import trained


@pytest.fixture
def model(qwen3: Path, tmp_path: Path) -> Path:
    """A model that a test may spoil."""
    return shutil.copytree(qwen3, tmp_path / "model")


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


def test_paths_are_quoted(model: Path, tmp_path: Path) -> None:
    """A directory with blanks and quotes in its name works in the command."""
    odd = tmp_path / "it's a model"
    model.rename(odd)
    renamed(odd, lambda name: f"module.{name}")
    run_next_step(refusal(odd, tmp_path / "out"), tmp_path / "out")
    assert stat.S_ISDIR((tmp_path / "it's a model-unwrapped").stat().st_mode)


def unmerged(model: Path, folder: Path) -> PeftModel:
    """A PEFT model whose whole state was saved, as training loops do that know nothing of PEFT."""
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    peft_model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    state = {name: tensor.clone().contiguous() for name, tensor in peft_model.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return peft_model


def test_unmerged_peft_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both calls of the message are run with the model in hand; what they save converts to the same classifier."""
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).save_pretrained(model)
    peft_model = unmerged(model, tmp_path / "unmerged")
    message = refusal(tmp_path / "unmerged", tmp_path / "out")
    calls = re.findall(r"(model\.[\w().]*save_pretrained\('\w+'\))", message)
    assert len(calls) == 2 and "--adapter adapter" in message
    monkeypatch.chdir(tmp_path)
    for call in calls:
        exec(call, {"model": peft_model})
    jaxconv.convert(model, "from-adapter", adapter="adapter", **OPTIONS)
    jaxconv.convert("merged", "from-merged", base=model, **OPTIONS)
    merged, expected = weights(Path("from-adapter")), weights(Path("from-merged"))
    assert merged.keys() == expected.keys() and any("q_proj" in name for name in merged)
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=1e-6)


def test_an_adapter_on_the_hub(model: Path, tmp_path: Path) -> None:
    """A hub id that is an adapter: it is downloaded and merged into its base, which is on the hub too."""
    adapter = trained(model, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "team/base"}))
    with serving({"team/base": model, "team/adapter": adapter}) as hub:
        variables = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        message = refusal_of_command("team/adapter", tmp_path, variables)
        assert "team/base" in message
        run_next_step(message, tmp_path / "out", folder=tmp_path, **variables)
    jaxconv.convert(model, tmp_path / "expected", adapter=adapter, **OPTIONS)
    ours, expected = weights(tmp_path / "out"), weights(tmp_path / "expected")
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in expected)
