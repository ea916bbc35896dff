"""What every backend with models must give: hidden states, causal logits and classifiers, equal to transformers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import jaxconv
from jaxconv.backends import get_backend
from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import BackendUnavailable, SourceError, UsageError
from jaxconv.json_files import JsonObject
from jaxconv.readers import open_checkpoint
from tests.support.tiny import FAMILIES, tiny_checkpoint

PROMPTS = [[5, 6, 7, 8, 200], list(range(4, 44))]
ANSWERS = [9, 3]
ON_JAX = ["llama", "qwen3", "gemma2", "phi3", "qwen3_moe", "mixtral"]


def opened(source: Path) -> tuple[Checkpoint, JsonObject]:
    return open_checkpoint(source), json.loads((source / "config.json").read_text())


def truth(source: Path) -> tuple[Any, Any]:
    """Hidden states and logits of transformers' own loading."""
    capped = json.loads((source / "config.json").read_text()).get("attn_logit_softcapping") is not None
    attention = {"attn_implementation": "eager"} if capped else {}  # the default of older releases leaves the cap out
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **attention).eval()
    with torch.no_grad():
        hidden = [model.base_model(torch.tensor([ids])).last_hidden_state[0, -1].numpy() for ids in PROMPTS]
        logits = [model(torch.tensor([ids])).logits[0, -1, ANSWERS].numpy() for ids in PROMPTS]
    return np.stack(hidden), np.stack(logits)


def renamed(checkpoint: Checkpoint, old: str, new: str) -> Checkpoint:
    tensors = {new + name.removeprefix(old): ref for name, ref in checkpoint.tensors.items() if name.startswith(old)}
    others = {name: ref for name, ref in checkpoint.tensors.items() if not name.startswith(old)}
    return dataclasses.replace(checkpoint, tensors=tensors | others)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_torch_gives_the_numbers_of_transformers(tmp_path: Path, model_type: str, tied: bool) -> None:
    """Models built from tensors equal models loaded from the directory: rotary buffers, tied heads, scales, experts."""
    source = tiny_checkpoint(tmp_path / "source", model_type, tie=tied)
    hidden, logits = truth(source)
    backend, (checkpoint, config) = get_backend("torch", "cpu"), opened(source)
    assert np.array_equal(backend.hidden_states(checkpoint, config, PROMPTS), hidden)
    assert np.abs(backend.causal_logits(checkpoint, config, PROMPTS, ANSWERS) - logits).max() < 1e-6


@pytest.mark.parametrize("model_type", ON_JAX)
def test_jax_hidden_states_equal_torch(tmp_path: Path, model_type: str) -> None:
    """Both backends give float32 [N, hidden] within rounding of each other."""
    checkpoint, config = opened(tiny_checkpoint(tmp_path / "source", model_type))
    states = [get_backend(name, "cpu").hidden_states(checkpoint, config, PROMPTS) for name in ("jax", "torch")]
    assert states[0].shape == (2, 64) and {str(array.dtype) for array in states} == {"float32"}
    assert np.abs(states[0] - states[1]).max() <= 2e-5 * np.abs(states[1]).max()


@pytest.mark.parametrize("prefix", ["", "model.language_model.", "language_model.model."])
def test_torch_accepts_other_prefixes(tmp_path: Path, prefix: str) -> None:
    """The name before `embed_tokens` may be any; the head keeps its place."""
    source = tiny_checkpoint(tmp_path / "source", "qwen3", tie=False)
    hidden, logits = truth(source)
    checkpoint, config = opened(source)
    checkpoint = renamed(checkpoint, "model.", prefix)
    backend = get_backend("torch", "cpu")
    assert np.array_equal(backend.hidden_states(checkpoint, config, PROMPTS), hidden)
    assert np.abs(backend.causal_logits(checkpoint, config, PROMPTS, ANSWERS) - logits).max() < 1e-6


def test_torch_runs_the_language_model_of_a_nested_config(tmp_path: Path) -> None:
    """Of a config with `text_config` the text model runs; other tensors are left out."""
    source = tiny_checkpoint(tmp_path / "source", "gemma3_text")
    hidden, _ = truth(source)
    checkpoint, text = opened(source)
    nested = renamed(checkpoint, "model.", "model.language_model.")
    extra = {**nested.tensors, "model.vision_tower.weight": next(iter(nested.tensors.values()))}
    config = {"model_type": "gemma3", "text_config": text}
    backend = get_backend("torch", "cpu")
    assert np.array_equal(backend.hidden_states(dataclasses.replace(nested, tensors=extra), config, PROMPTS), hidden)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_missing_tensors_are_named(qwen3: Path, backend: str) -> None:
    """A model with random parameters in place of missing ones is never run."""
    checkpoint, config = opened(qwen3)
    lost = "model.layers.1.mlp.down_proj.weight"
    tensors = {name: ref for name, ref in checkpoint.tensors.items() if name != lost}
    with pytest.raises(SourceError, match=r"layers\.1\.mlp\.down_proj\.weight"):
        get_backend(backend, "cpu").hidden_states(dataclasses.replace(checkpoint, tensors=tensors), config, PROMPTS)


def test_a_model_that_builds_but_does_not_run_is_a_source_error(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever transformers raises in a forward pass, the error names the model."""
    from transformers import Qwen3Model

    def broken(*_: object, **__: object) -> None:
        raise AttributeError("nothing here")

    monkeypatch.setattr(Qwen3Model, "forward", broken)
    checkpoint, config = opened(qwen3)
    with pytest.raises(SourceError, match="AttributeError: nothing here"):
        get_backend("torch", "cpu").hidden_states(checkpoint, config, PROMPTS)


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize(("ids", "message"), [([5, 320], "token id 320"), ([-1, 5], "token id -1"), ([], "no tokens")])
def test_bad_token_ids_are_refused(qwen3: Path, backend: str, ids: list[int], message: str) -> None:
    """JAX would clamp an id without an embedding row, PyTorch would crash."""
    checkpoint, config = opened(qwen3)
    with pytest.raises(UsageError, match=message):
        get_backend(backend, "cpu").hidden_states(checkpoint, config, [[5], ids])


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_an_adapter_beside_the_weights_has_no_effect(qwen3: Path, tmp_path: Path, backend: str) -> None:
    """transformers' from_pretrained would apply a PEFT adapter that lies in the directory."""
    from peft import LoraConfig, get_peft_model

    jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=["no", "yes"], backend="numpy")
    before = get_backend(backend, "cpu").classifier(tmp_path / "out").logits(PROMPTS)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(qwen3), LoraConfig(init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, tmp_path / "out" / name)
    assert get_backend(backend, "cpu").classifier(tmp_path / "out").logits(PROMPTS) == before


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 5e-2)])
def test_classifiers_agree_in_every_dtype(qwen3: Path, tmp_path: Path, dtype: str, tolerance: float) -> None:
    """Logits of both backends are close to float32 ones, as far as the backbone's dtype allows."""
    jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=["no", "yes"], backend="numpy")
    expected = get_backend("torch", "cpu").classifier(tmp_path / "out").logits(PROMPTS)
    for name in ("jax", "torch"):
        logits = get_backend(name, "cpu").classifier(tmp_path / "out", dtype=dtype).logits(PROMPTS)
        assert np.abs(np.subtract(logits, expected)).max() <= tolerance


def test_float16_is_refused_where_jax_cannot_compile_it(qwen3: Path, tmp_path: Path) -> None:
    """XLA has no float16 products on the CPU; PyTorch has."""
    jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=["no", "yes"], backend="numpy")
    with pytest.raises(UsageError, match=r"float16.*--backend torch"):
        get_backend("jax", "cpu").classifier(tmp_path / "out", dtype="float16")
    assert len(get_backend("torch", "cpu").classifier(tmp_path / "out", dtype="float16").logits(PROMPTS)) == 2


def test_numpy_and_jax_say_what_they_lack(qwen3: Path) -> None:
    """NumPy runs no models and JAX has no causal head; both name the backend that does."""
    checkpoint, config = opened(qwen3)
    numpy = get_backend("numpy")
    for call in (
        lambda: numpy.classifier(qwen3),
        lambda: numpy.hidden_states(checkpoint, config, PROMPTS),
        lambda: numpy.causal_logits(checkpoint, config, PROMPTS, ANSWERS),
        lambda: get_backend("jax", "cpu").causal_logits(checkpoint, config, PROMPTS, ANSWERS),
    ):
        with pytest.raises(BackendUnavailable, match="--backend torch"):
            call()


def test_auto_takes_the_first_backend_that_runs_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX first; PyTorch for models that JAX lacks; an error with both reasons where neither runs it."""
    import sys

    llama = {
        "model_type": "llama", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1
    }  # fmt: skip
    assert get_backend("auto", "cpu").name == get_backend("auto", "cpu", config=llama).name == "jax"
    assert get_backend("auto", "cpu", config={"model_type": "qwen3_5_text"}).name == "torch"
    with pytest.raises(UsageError, match=r"JAX model does not run.*transformers .* has no model_type 'nothing'"):
        get_backend("auto", config={"model_type": "nothing"})
    with pytest.raises(UsageError, match="qwen3_5_text"):
        get_backend("jax", config={"model_type": "qwen3_5_text"})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendUnavailable, match=r"qwen3_5_text.*pip install 'jaxconv\[torch\]'"):
        get_backend("auto", config={"model_type": "qwen3_5_text"})


def test_every_backend_says_which_models_it_runs() -> None:
    """`unsupported` is None or a reason; a config with values of a wrong type is a damaged source."""
    assert get_backend("numpy").unsupported({"model_type": "llama"}) is not None
    assert get_backend("torch", "cpu").unsupported({"model_type": "llama"}) is None
    with pytest.raises(SourceError, match="rope_theta; expected a finite number"):
        get_backend("jax", "cpu").unsupported(
            {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
             "rope_parameters": {"rope_theta": "x"}}
        )  # fmt: skip
