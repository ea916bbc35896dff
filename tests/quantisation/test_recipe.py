"""The recipe of docs/quantised.md for quantising an output, run as it stands there with the real llm-compressor."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification

import jaxconv
from jaxconv.text.prompt import render
from tests.support.environments import ROOT, run_in
from tests.support.tiny import tiny_checkpoint, tokenizer

pytestmark = pytest.mark.slow
PAIRS = [("yes it is", "no that"), ("the this", "the other thing"), ("a", "yes yes no")]


def recipe() -> str:
    """The Python block of the guide that uses llm-compressor."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "quantised.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "llmcompressor" in block]
    return block


def stored(folder: Path, name: str) -> torch.Tensor:
    """A tensor of a folder's only file."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return file.get_tensor(name)


def scores(folder: Path, template: str) -> torch.Tensor:
    """The raw scores that transformers computes, with the reader that the folder's config names."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    batch = tokenizer(False)([render(template, *pair) for pair in PAIRS], return_tensors="pt", padding=True)
    with torch.inference_mode():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an output, `out`."""
    folder = tmp_path_factory.mktemp("recipe")
    source = tiny_checkpoint(folder / "source", "qwen3")
    jaxconv.convert(source, folder / "out", classifier_from_tokens=["no", "yes"], backend="numpy")
    return folder


def test_the_recipe_keeps_the_row(folder: Path) -> None:
    """The score row is the output's bit for bit, the layers are fp8, and the scores are near those of the output."""
    (folder / "recipe.py").write_text(recipe())
    run_in("trainers", str(folder / "recipe.py"), folder=folder)
    row = stored(folder / "out-fp8", "score.weight")
    assert row.dtype == torch.float32 and torch.equal(row, stored(folder / "out", "score.weight"))
    assert stored(folder / "out-fp8", "model.layers.0.mlp.up_proj.weight").dtype == torch.float8_e4m3fn
    config = json.loads((folder / "out-fp8" / "config.json").read_text())
    assert config["quantization_config"]["ignore"] == ["score"]
    template = (folder / "out" / "score_template.jinja").read_text()
    before, after = scores(folder / "out", template), scores(folder / "out-fp8", template)
    assert before.max() - before.min() > 0.05
    assert 0 < (before - after).abs().max() < 0.25 * (before.max() - before.min())


def test_without_the_entry_the_row_is_quantised(folder: Path) -> None:
    """What the recipe's `ignore` is for: the first test would see it."""
    shutil.rmtree(folder / "out-fp8", ignore_errors=True)
    spoiled = recipe().replace('ignore=["score"]', "ignore=[]")
    lines = [line for line in spoiled.splitlines() if not line.startswith("model.score.weight.data")]
    (folder / "spoiled.py").write_text("\n".join(lines))
    run_in("trainers", str(folder / "spoiled.py"), folder=folder)
    assert stored(folder / "out-fp8", "score.weight").dtype == torch.float8_e4m3fn
