"""transformers' Flax names: the same bytes as from PyTorch names, and never taken for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import jaxconv
from jaxconv.errors import LayoutError
from jaxconv.readers import open_checkpoint
from tests.support.tiny import tiny_checkpoint

TOKENS = ["no", "yes"]


def as_flax(source: Path, target: Path) -> Path:
    """The source as transformers v4 saved Flax models in safetensors: kernels transposed, embeddings renamed."""
    shutil.copytree(source, target)
    flax = {}
    for name, tensor in load_file(target / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        if tensor.ndim == 2 and "embed_tokens" in name:
            flax[f"{stem}.embedding"] = tensor
        elif tensor.ndim == 2:
            flax[f"{stem}.kernel"] = tensor.t().contiguous()
        else:
            flax[name] = tensor
    save_file(flax, target / "model.safetensors", {"format": "flax"})
    return target


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma"])
@pytest.mark.parametrize("tie", [True, False])
def test_same_tensors_as_from_pytorch_names(tmp_path: Path, model_type: str, tie: bool) -> None:
    """Converted from Flax names and from PyTorch names, every tensor has the same bits."""
    source = tiny_checkpoint(tmp_path / "source", model_type, tie=tie)
    flax = as_flax(source, tmp_path / "flax")
    assert open_checkpoint(flax).format == "flax_safetensors"
    jaxconv.convert(source, tmp_path / "a", classifier_from_tokens=TOKENS, backend="jax")
    made = jaxconv.convert(flax, tmp_path / "b", classifier_from_tokens=TOKENS, backend="jax")
    assert made.plan.model.layout == "hf_flax"
    expected, found = load_file(tmp_path / "a" / "model.safetensors"), load_file(tmp_path / "b" / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert tensor.dtype == found[name].dtype and torch.equal(tensor, found[name]), name


def test_an_unknown_leaf_is_named(tmp_path: Path) -> None:
    """A leaf that transformers' Flax models do not have is an error that shows it."""
    source = tiny_checkpoint(tmp_path / "source", "llama", tie=True)
    flax = as_flax(source, tmp_path / "flax")
    tensors = load_file(flax / "model.safetensors")
    tensors["model.norm.gamma"] = tensors.pop("model.norm.weight")
    save_file(tensors, flax / "model.safetensors", {"format": "flax"})
    with pytest.raises(LayoutError, match=r"model\.norm\.gamma"):
        jaxconv.convert(flax, tmp_path / "out", classifier_from_tokens=TOKENS, backend="numpy")
