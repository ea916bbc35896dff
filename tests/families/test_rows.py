"""What a row can say: spellings, towers, accepted classes, where the score row goes, the kinds of its parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import jaxconv
from jaxconv.errors import RefusedError
from jaxconv.families import FAMILIES, family_for, recognition, table_family
from jaxconv.families.row import Row, Spelling
from tests.support.tiny import FAMILIES as TINY
from tests.support.tiny import SIZES, tiny_checkpoint

NEW = Spelling("model.language_model.", "lm_head", "language_model.score", ("model.vision_tower.",))
OLD = Spelling("language_model.model.", "language_model.lm_head", "language_model.score", ("vision_tower.",))
TOWN = Row(
    "TownForCausalLM", FAMILIES["llama"].tensors, accepts=("TownForConditionalGeneration",), spellings=(NEW, OLD),
    transformers_seq_cls=False,
)  # fmt: skip


@pytest.fixture
def town(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a language model inside a larger one."""
    for module in (recognition, table_family):
        monkeypatch.setattr(module, "FAMILIES", {**FAMILIES, "town": TOWN})


@pytest.mark.usefixtures("town")
@pytest.mark.parametrize("spelling", TOWN.spellings, ids=["new", "old"])
def test_a_row_is_all_that_a_model_with_a_tower_needs(tmp_path: Path, spelling: Spelling) -> None:
    """The tower is copied untouched, the decoder keeps its prefix, and the score row goes where the row says."""
    source = tiny_checkpoint(tmp_path / "source", "llama", tie=False)
    tensors = load_file(source / "model.safetensors")
    renamed = {
        name.replace("model.", spelling.prefix, 1) if name.startswith("model.") else f"{spelling.head}.weight": tensor
        for name, tensor in tensors.items()
    }
    tower = {f"{spelling.towers[0]}blocks.0.weight": torch.randn(3, 5, dtype=torch.bfloat16)}
    save_file({**renamed, **tower}, source / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    nested = {"model_type": "town", "architectures": ["TownForConditionalGeneration"], "text_config": config}
    (source / "config.json").write_text(json.dumps(nested))
    jaxconv.convert(source, tmp_path / "output", classifier_from_tokens=["no", "yes"], backend="numpy")
    output = load_file(tmp_path / "output" / "model.safetensors")
    backbone = {name: tensor for name, tensor in renamed.items() if name != f"{spelling.head}.weight"}
    assert output.keys() == {*backbone, *tower, "language_model.score.weight"}
    assert all(torch.equal(output[name], tensor) for name, tensor in {**backbone, **tower}.items())
    assert json.loads((tmp_path / "output" / "config.json").read_text())["architectures"] == ["TownForSequenceClassification"]


@pytest.mark.usefixtures("town")
def test_only_the_classes_of_a_row_are_accepted() -> None:
    """The causal LM and the classes in `accepts`; another class of the same model type is refused."""
    for architecture in ("TownForCausalLM", "TownForConditionalGeneration"):
        assert family_for({"model_type": "town", "architectures": [architecture]}).architecture == "TownForCausalLM"
    with pytest.raises(RefusedError, match="CityForCausalLM"):
        family_for({"model_type": "town", "architectures": ["CityForCausalLM"]})


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_kinds_are_those_of_the_modules(model_type: str) -> None:
    """Weights of linear layers, embeddings and norms have their kind; a router's is "other", for nothing quantises it."""
    config = AutoConfig.for_model(model_type, **{**SIZES, **TINY[model_type]})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    family = family_for({"model_type": model_type})
    parameters = family.parameters({**config.to_dict(), "model_type": model_type})
    compared = 0
    for module_name, module in model.named_modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, tensor in module.named_parameters(recurse=False):
            full_name = f"{module_name}.{name}"
            if full_name not in parameters:
                continue  # the head, and experts, which files hold one by one
            compared += 1
            weight = name == "weight"
            kind = "norm" if is_norm else "embedding" if isinstance(module, nn.Embedding) else "other"
            kind = "linear" if isinstance(module, nn.Linear) and weight else kind
            assert parameters[full_name].kind == kind, (full_name, type(module).__name__)
            assert parameters[full_name].shape == tuple(tensor.shape)
    assert compared > 10
