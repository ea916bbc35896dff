"""A real model as flax msgpack and as an Orbax checkpoint gives the bytes that its safetensors give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import orbax.checkpoint as ocp
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import jaxconv
from examples.smollm2 import checkpoint

TOKENS = ["no", "yes"]


def _tree(source: Path) -> dict[str, Any]:
    """The tensors as transformers' FlaxLlama holds them, with the lm_head that it saves of tied models too."""
    tree: dict[str, Any] = {}
    for name, array in load_file(source / "model.safetensors").items():
        *path, leaf = name.split(".")
        if array.ndim == 2:
            leaf, array = ("embedding", array) if "embed_tokens" in name else ("kernel", array.T.copy())
        at = tree
        for key in path:
            at = at.setdefault(key, {})
        at[leaf] = array
    tree["lm_head"] = {"kernel": tree["model"]["embed_tokens"]["embedding"].T.copy()}
    return tree


def _msgpack(tree: dict[str, Any], folder: Path) -> None:
    folder.mkdir()
    (folder / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(tree))


def _orbax(tree: dict[str, Any], folder: Path) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, {"params": tree})


@pytest.mark.slow
@pytest.mark.parametrize(("write", "layout"), [(_msgpack, "hf_flax"), (_orbax, "nnx")])
def test_same_bytes_as_from_safetensors(tmp_path: Path, write: Callable[[dict[str, Any], Path], None], layout: str) -> None:
    """Every tensor and the score row have the same bits, whichever container the model came in."""
    source = checkpoint()
    write(_tree(source), tmp_path / "foreign")
    jaxconv.convert(source, tmp_path / "a", classifier_from_tokens=TOKENS, backend="jax")
    made = jaxconv.convert(tmp_path / "foreign", tmp_path / "b", base=source, classifier_from_tokens=TOKENS, backend="jax")
    assert made.plan.model.layout == layout
    with (
        safe_open(tmp_path / "a" / "model.safetensors", "np") as expected,
        safe_open(tmp_path / "b" / "model.safetensors", "np") as found,
    ):
        assert set(expected.keys()) == set(found.keys()) and "score.weight" in found.keys()
        for name in expected.keys():
            assert expected.get_tensor(name).tobytes() == found.get_tensor(name).tobytes(), name
