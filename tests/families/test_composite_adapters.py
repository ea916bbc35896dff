"""Adapters of models that read pictures, written by PEFT, under the names of today's modules and of former ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import jaxconv
from jaxconv.errors import RefusedError
from jaxconv.families import COMPOSITES
from tests.support.multimodal import composite_checkpoint, respelled
from tests.support.tiny import tokenizer

TOKENS = tokenizer(False).convert_tokens_to_ids(["no", "yes"])
PROJECTIONS = ["q_proj", "v_proj", "down_proj"]  # Gemma 3's tower and LLaVA's have them too
# What PEFT writes -> what it wrote when the modules had other places.
FORMER = {
    "qwen2_vl": {"model.language_model.": "model.", "model.visual.": "visual."},
    "gemma3": {"model.language_model.": "language_model.model.", "model.vision_tower.": "vision_tower.vision_model."},
}


def trained(source: Path, folder: Path, **settings: Any) -> Path:
    """A LoRA adapter of the source whose factors are random, as after training, saved by PEFT."""
    torch.manual_seed(1)
    options = {"r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS, **settings}
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32), LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def merged(source: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The tensors of PEFT's merged model, by the names of its modules."""
    base = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    return dict(PeftModel.from_pretrained(base, adapter).merge_and_unload().state_dict())


def renamed_adapter(adapter: Path, names: dict[str, str]) -> None:
    """Gives an adapter the names of former modules."""
    path = adapter / "adapter_model.safetensors"
    changed = {}
    for name, tensor in load_file(path).items():
        for before, after in names.items():
            name = name.replace(f"base_model.model.{before}", f"base_model.model.{after}")
        changed[name] = tensor
    assert changed.keys() != load_file(path).keys()
    save_file(changed, path)


@pytest.mark.parametrize(
    ("name", "spelling", "former", "settings"),
    [
        ("qwen2_vl", 0, False, {}),
        ("qwen2_vl", -1, True, {"target_modules": [*PROJECTIONS, "qkv"], "use_rslora": True}),
        ("qwen2_vl", 0, True, {}),
        ("gemma3", 0, False, {"modules_to_save": ["lm_head"]}),
        ("gemma3", -1, True, {}),
        ("qwen3_vl", 0, False, {"target_modules": [*PROJECTIONS, "lm_head", "linear_fc1"]}),
    ],
)
def test_scores_are_those_of_pefts_merge(
    tmp_path: Path, name: str, spelling: int, former: bool, settings: dict[str, Any]
) -> None:
    """Every tensor and the row to float32 rounding, whichever names files and adapter have; `verify` merges on its own."""
    source, output = composite_checkpoint(tmp_path / "bfloat16", name, tie=False), tmp_path / "output"
    wide = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    wide.save_pretrained(source)
    adapter = trained(source, tmp_path / "adapter", **settings)
    expected = merged(source, adapter)
    if former:
        renamed_adapter(adapter, FORMER[name])
    spellings = COMPOSITES[name].spellings
    if spelling:
        respelled(source, spellings[0], spellings[spelling])
    jaxconv.convert(source, output, token_ids=TOKENS, adapter=adapter, backend="numpy")
    made = AutoModelForImageTextToText.from_pretrained(output, dtype=torch.float32, architectures=[]).state_dict()
    heads = {"lm_head.weight"}
    assert made.keys() == expected.keys()
    for key in made.keys() - heads:
        torch.testing.assert_close(made[key], expected[key], rtol=1e-6, atol=1e-6)
    head = expected["lm_head.weight"]
    (row,) = (tensor for key, tensor in load_file(next(output.glob("*.safetensors"))).items() if key.endswith("score.weight"))
    torch.testing.assert_close(row, (head[TOKENS[1]] - head[TOKENS[0]])[None], rtol=1e-6, atol=2e-6)
    report = jaxconv.verify(source, output, adapter=adapter, structure_only=True)
    assert report.passed, report.findings


@pytest.mark.slow
def test_verify_scores_with_the_adapter(tmp_path: Path) -> None:
    """Source and adapter through transformers against the output; without the adapter the difference is found."""
    source, output = composite_checkpoint(tmp_path / "source", "qwen2_vl"), tmp_path / "output"
    adapter = trained(source, tmp_path / "adapter")
    jaxconv.convert(source, output, token_ids=TOKENS, adapter=adapter, backend="numpy")
    report = jaxconv.verify(source, output, adapter=adapter)
    assert report.passed and report.scores is not None and report.scores.max_abs_error <= 1e-4, report.findings
    assert not jaxconv.verify(source, output, structure_only=True).passed


def test_an_adapter_of_a_part_is_refused(tmp_path: Path) -> None:
    """--text-only has no towers that the adapter could change."""
    source = composite_checkpoint(tmp_path / "source", "qwen2_vl")
    adapter = trained(source, tmp_path / "adapter")
    with pytest.raises(RefusedError, match="an adapter that --text-only would merge in part"):
        jaxconv.convert(source, tmp_path / "out", token_ids=TOKENS, adapter=adapter, text_only=True, backend="numpy")
