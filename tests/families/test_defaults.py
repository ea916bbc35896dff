"""What an absent config key means: the same number for the table, the JAX decoder and transformers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from jaxconv.families import FAMILIES, family_for, num_experts, with_defaults
from jaxconv.models.config import SUPPORTED, decoder_config

# Sizes that no family has as its default, so that a derived number cannot be mistaken for a default one.
SIZES = {
    "vocab_size": 96, "hidden_size": 240, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 24,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48,
}  # fmt: skip
ROPE = ("rope_theta", "rope_local_base_freq")  # in rope_parameters of transformers 5
# Keys that the config class does not keep under their name; the tests below hold the decoder against what it makes of them.
ELSEWHERE = {*ROPE, "hidden_activation", "hidden_act", "sliding_window_pattern", "full_attention_interval"}


def config(model_type: str) -> dict[str, Any]:
    """A config.json with nothing but sizes that must be there."""
    return {"model_type": model_type, **SIZES}


def transformers_config(model_type: str) -> Any:
    """What transformers makes of it. A window counts only with its flag."""
    return AutoConfig.for_model(model_type, **SIZES, use_sliding_window=True)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_defaults_of_the_table_are_transformers(model_type: str) -> None:
    """Every default of a row is the one of transformers' config class."""
    theirs = transformers_config(model_type)
    checked = {key: value for key, value in FAMILIES[model_type].defaults.items() if key not in ELSEWHERE}
    assert checked == {key: getattr(theirs, key) for key in checked}
    assert FAMILIES[model_type].tied is theirs.tie_word_embeddings


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_attention_sizes_of_an_empty_config_are_transformers(model_type: str) -> None:
    """Key-value heads and head size without their keys, as the shape of the key projection shows them."""
    theirs = transformers_config(model_type)
    heads = theirs.num_key_value_heads or SIZES["num_attention_heads"]
    head_dim = getattr(theirs, "head_dim", None) or SIZES["hidden_size"] // SIZES["num_attention_heads"]
    parameters = family_for(config(model_type)).parameters(config(model_type))
    shapes = {name.rpartition("self_attn.")[2]: parameter.shape for name, parameter in parameters.items()}
    if model_type == "phi3":
        assert shapes["qkv_proj.weight"][0] == (SIZES["num_attention_heads"] + 2 * heads) * head_dim
    else:
        assert shapes["k_proj.weight"][0] == heads * head_dim


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_decoder_of_an_empty_config_is_transformers(model_type: str) -> None:
    """The JAX decoder takes the same numbers as transformers for everything that decides its arithmetic."""
    ours, theirs = decoder_config(config(model_type)), transformers_config(model_type)
    head_dim = getattr(theirs, "head_dim", None) or SIZES["hidden_size"] // SIZES["num_attention_heads"]
    assert (ours.num_kv_heads, ours.head_dim, ours.eps) == (theirs.num_key_value_heads, head_dim, theirs.rms_norm_eps)
    assert ours.activation == getattr(theirs, "hidden_activation", None) or theirs.hidden_act
    assert ours.softcap == getattr(theirs, "attn_logit_softcapping", None)
    assert ours.scale == getattr(theirs, "query_pre_attn_scalar", head_dim) ** -0.5
    assert {rope.max_positions for rope in ours.ropes} == {theirs.max_position_embeddings}
    thetas = [theirs.rope_parameters]
    if model_type == "gemma3_text":
        thetas = [theirs.rope_parameters[kind] for kind in ("full_attention", "sliding_attention")]
    assert [rope.theta for rope in ours.ropes] == [parameters["rope_theta"] for parameters in thetas]


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_experts_of_an_empty_config_are_transformers(model_type: str) -> None:
    """The number of experts, how many a token takes, and whether their shares are normalised."""
    ours, theirs = decoder_config(config(model_type)), transformers_config(model_type)
    assert ours.moe is not None
    assert ours.moe.num_experts == num_experts(with_defaults(config(model_type))) == theirs.num_local_experts
    assert ours.moe.top_k == theirs.num_experts_per_tok
    assert ours.moe.normalise is getattr(theirs, "norm_topk_prob", True)
    routers = [
        p for name, p in family_for(config(model_type)).parameters(config(model_type)).items() if "gate.weight" in name
    ]
    assert {router.shape[0] for router in routers} == {theirs.num_local_experts}


def test_mistral_without_key_value_heads_has_eight() -> None:
    """The case that two tables once disagreed on."""
    assert decoder_config(config("mistral")).num_kv_heads == 8


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "qwen3_moe", "mistral", "gemma2", "gemma3_text", "phi3", "mixtral"])
def test_window_of_an_empty_config_is_transformers(model_type: str) -> None:
    """The sliding window, where the config turns it on and does not say how long it is."""
    theirs = transformers_config(model_type)
    ours = decoder_config({**config(model_type), "use_sliding_window": True, "max_window_layers": 0})
    assert min(ours.windows) == (theirs.sliding_window or 2**30)
