"""Hidden states of the NNX decoder against transformers in PyTorch at float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from jaxconv.errors import SourceError, UsageError
from jaxconv.models.config import decoder_config
from jaxconv.models.loading import load_decoder
from jaxconv.readers import open_checkpoint

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "moe_intermediate_size": 32,
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, "rope_theta": 10000.0}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
        "long_factor": [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5], "original_max_position_embeddings": 16,
        "rope_theta": 10000.0}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
SLIDING = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"num_key_value_heads": 4}),
    ("llama", {"num_key_value_heads": 1}),
    ("llama", {"head_dim": 32}),
    ("llama", {"hidden_act": "gelu", "rms_norm_eps": 1e-2}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"rope_parameters": LINEAR}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 16}),
    ("llama", {"rope_parameters": DYNAMIC}),
    ("llama", {"rope_parameters": YARN}),
    ("llama", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False}}),
    ("llama", {"rope_parameters": YARN | {"attention_factor": 1.7, "beta_fast": 16, "beta_slow": 2}}),
    ("mistral", {"sliding_window": 5}),
    ("mistral", {"sliding_window": None, "rope_parameters": LLAMA3}),
    ("qwen2", {}),
    ("qwen2", SLIDING),
    ("qwen2", LAYERS | {"use_sliding_window": True}),
    ("qwen2", {"sliding_window": 4, "rope_parameters": YARN}),
    ("qwen3", {"attention_bias": True}),
    ("qwen3", SLIDING),
    ("qwen3", {"rope_parameters": YARN, "head_dim": 24}),
    ("gemma", {}),
    ("gemma", {"attention_bias": True, "num_key_value_heads": 1}),
    ("gemma2", {"sliding_window": 5, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0}),
    ("gemma2", {"sliding_window": 5, "attention_bias": True, "attn_logit_softcapping": None}),
    ("gemma2", LAYERS),
    ("gemma3_text", {"sliding_window": 5, "num_hidden_layers": 7, "query_pre_attn_scalar": 24}),
    ("gemma3_text", LAYERS | {"attention_bias": True, "rope_parameters": {
        "full_attention": LINEAR | {"rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
    ("phi3", {"sliding_window": 6}),
    ("phi3", {"sliding_window": None, "num_key_value_heads": 4}),
    ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 16}),
    ("phi3", {"rope_parameters": LONG | {"original_max_position_embeddings": 64}, "original_max_position_embeddings": 64}),
    ("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    ("mixtral", {"sliding_window": 5}),
    ("mixtral", {"sliding_window": None, "rope_parameters": LINEAR}),
    ("qwen3_moe", {"norm_topk_prob": True, "attention_bias": True}),
    ("qwen3_moe", {"norm_topk_prob": False, "mlp_only_layers": [0]}),
    ("qwen3_moe", {"decoder_sparse_step": 2, "rope_parameters": YARN}),
]  # fmt: skip
# One of each kind of rope that depends on lengths, and of each kind of mask, expert and norm.
PADDED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 8}),
    ("mistral", {"sliding_window": 5}),
    ("qwen2", SLIDING),
    ("gemma2", {"sliding_window": 5}),
    ("phi3", {"rope_parameters": LONG | {"original_max_position_embeddings": 12}, "original_max_position_embeddings": 12}),
    ("qwen3_moe", {}),
    ("mixtral", {"sliding_window": 5}),
]  # fmt: skip
OLD: list[tuple[str, dict[str, Any], str]] = [
    ("llama", LINEAR, "type"),
    ("llama", DYNAMIC, "type"),
    ("qwen2", YARN, "type"),
    ("llama", LLAMA3, "rope_type"),
    ("phi3", LONG, "type"),
]


def saved(folder: Path, kind: str, options: dict[str, Any]) -> Any:
    """A random causal LM, its norms, biases and routers far from their initial values."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES | options)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()  # sdpa may leave a cap out
    for name, parameter in model.named_parameters():
        offset = 1.0 if "norm" in name and "gemma" not in kind else 0.0
        parameter.data = torch.randn_like(parameter) * 0.3 + offset
    model.save_pretrained(folder)
    return model


def decoder(folder: Path) -> Any:
    return load_decoder(open_checkpoint(folder), json.loads((folder / "config.json").read_text()))


def relative(got: Any, want: Any) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_hidden_states_equal_transformers(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    """Last hidden states agree to 2e-5 of their scale, for every family and option."""
    model = saved(tmp_path, kind, options)
    rng = np.random.default_rng(0)
    token_ids = [rng.integers(3, 96, length).tolist() for length in (20, 24)]  # dynamic scaling in torch only ever grows
    got = decoder(tmp_path).hidden_last(token_ids)
    with torch.no_grad():
        want = [model.model(torch.tensor([ids])).last_hidden_state[0, -1].numpy() for ids in token_ids]
    assert relative(got, np.stack(want)) <= 2e-5


@pytest.mark.parametrize(("kind", "options"), PADDED)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(tmp_path: Path, side: str, kind: str, options: dict[str, Any]) -> None:
    """Hidden states at real tokens are those of each sequence alone, whichever side is padded, beside a longer one."""
    model = saved(tmp_path, kind, options)
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 96, length).tolist() for length in (9, 13)]
    fill = [[0] * (20 - len(ids)) for ids in rows]
    padded = np.array([f + ids if side == "left" else ids + f for ids, f in zip(rows, fill, strict=True)])
    mask = (padded != 0).astype(np.int32)
    got = np.asarray(decoder(tmp_path)(padded, mask))
    with torch.no_grad():  # the shorter first: dynamic scaling in torch only ever grows
        for row, ids in enumerate(rows):
            want = model.model(torch.tensor([ids])).last_hidden_state[0].numpy()
            assert relative(got[row][mask[row].astype(bool)], want) <= 2e-5


@pytest.mark.parametrize(("kind", "rope", "word"), OLD)
def test_rope_of_transformers_4_is_the_same_model(tmp_path: Path, kind: str, rope: dict[str, Any], word: str) -> None:
    """A config.json with rope_theta and rope_scaling gives the hidden states of the one with rope_parameters."""
    original = {"original_max_position_embeddings": 16} if kind == "phi3" else {}
    model = saved(tmp_path, kind, {"rope_parameters": rope, "max_position_embeddings": 64} | original)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "rope_type")}
    config |= {"rope_theta": rope["rope_theta"], "rope_scaling": scaling | {word: rope["rope_type"]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = np.random.default_rng(0).integers(3, 96, 24).tolist()
    with torch.no_grad():
        want = model.model(torch.tensor([ids])).last_hidden_state[0, -1].numpy()
    assert relative(decoder(tmp_path).hidden_last([ids])[0], want) <= 2e-5


def test_both_spellings_of_rope_are_one() -> None:
    """rope_theta with rope_scaling, and rope_parameters, describe the same decoder."""
    base = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    old = {key: value for key, value in YARN.items() if key not in ("rope_theta", "rope_type")}
    older = decoder_config(base | {"rope_theta": 5e5, "rope_scaling": {"type": "yarn"} | old}).ropes[0]
    newer = decoder_config(base | {"rope_parameters": YARN | {"rope_theta": 5e5}}).ropes[0]
    assert (older.kind, older.theta, older.dim) == (newer.kind, newer.theta, newer.dim) == ("yarn", 5e5, 8)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_windows_without_layer_types_are_transformers(kind: str, windowed: bool) -> None:
    """An older config.json does not list its layers; which of them slide is what transformers makes of it."""
    flags = {"use_sliding_window": windowed, "sliding_window": 4, "max_window_layers": 3, "num_hidden_layers": 8}
    config = AutoConfig.for_model(kind, **SIZES | flags)
    older = {key: value for key, value in config.to_dict().items() if key != "layer_types"} | flags
    slides = [window == 4 for window in decoder_config(older).windows]
    assert slides == [layer == "sliding_attention" for layer in config.layer_types]
    assert any(slides) == (windowed or "gemma" in kind)


def test_unknown_family_names_the_way_out() -> None:
    """A family without a JAX model is a usage error that names the torch backend."""
    with pytest.raises(UsageError, match=r"gpt2.*--backend torch"):
        decoder_config({"model_type": "gpt2"})


def test_bias_that_the_config_denies_is_refused(tmp_path: Path) -> None:
    """A bias in the checkpoint that config.json leaves out would be dropped, so it is refused."""
    saved(tmp_path, "llama", {"attention_bias": True})
    config = json.loads((tmp_path / "config.json").read_text()) | {"attention_bias": False}
    with pytest.raises(SourceError, match=r"q_proj\.bias"):
        load_decoder(open_checkpoint(tmp_path), config)
