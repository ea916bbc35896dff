"""What `inspect` reads and says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import jaxconv
from jaxconv.checkpoint import TensorRef
from jaxconv.families import tensors
from tests.support.tiny import tiny_checkpoint

TOKENS = ["no", "yes"]


def with_both(source: Path, folder: Path, change: float) -> Path:
    """A copy of a tied model that stores the head too; `change` is added to one of its columns."""
    shutil.copytree(source, folder)
    path = folder / "model.safetensors"
    stored = load_file(path)
    head = stored["model.embed_tokens.weight"].clone()
    head[:, 0] += change
    save_file({**stored, "lm_head.weight": head}, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize(("change", "convertible"), [(0.0, True), (1.0, False)])
def test_a_sample_of_tied_heads_is_compared(
    qwen3: Path, tmp_path: Path, change: float, convertible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Head and embedding that are tied and both stored are told apart without reading either whole."""
    monkeypatch.setattr(tensors, "COMPARE_BYTES", 0)  # reading all of a matrix would divide by zero
    source = with_both(qwen3, tmp_path / "both", change)
    description = jaxconv.inspect(source, classifier_from_tokens=TOKENS)
    assert description["convertible"] is convertible
    assert convertible or "differ" in description["refusals"][0]


def test_the_sample_is_small(qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 64 rows of each are read."""
    read: list[int] = []
    whole = TensorRef.read_rows

    def counted(self: TensorRef, ids: list[int]) -> object:
        read.append(len(ids))
        return whole(self, ids)

    monkeypatch.setattr(TensorRef, "read_rows", counted)
    jaxconv.inspect(with_both(qwen3, tmp_path / "both", 0.0), classifier_from_tokens=TOKENS)
    assert read and max(read) <= 64


@pytest.mark.parametrize("tie", [True, False])
def test_the_description_counts_an_untied_head(tmp_path: Path, tie: bool) -> None:
    """Parameters and bytes are those of the stored tensors, the head included."""
    source = tiny_checkpoint(tmp_path / "source", "llama", tie=tie)
    stored = load_file(source / "model.safetensors")
    description = jaxconv.inspect(source, classifier_from_tokens=TOKENS)
    assert description["num_parameters"] == sum(tensor.numel() for tensor in stored.values())
    assert description["bytes"] == sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    assert ("lm_head.weight" in stored) is not tie and stored["model.norm.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("section", [[], "fp8", {"quant_method": "fp8"}])
def test_a_leftover_quantisation_over_plain_tensors_is_refused(qwen3: Path, tmp_path: Path, section: object) -> None:
    """Whatever its type, the key makes readers expect packed tensors; without it the source converts."""
    source = tmp_path / "source"
    shutil.copytree(qwen3, source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
    refused = jaxconv.inspect(source, classifier_from_tokens=TOKENS)
    assert not refused["convertible"] and "remove quantization_config" in refused["refusals"][0]
    (source / "config.json").write_text(json.dumps(config))
    assert jaxconv.inspect(source, classifier_from_tokens=TOKENS)["convertible"]
