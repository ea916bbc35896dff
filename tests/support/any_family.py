"""Tiny random causal LMs of any family that transformers knows, built by shrinking what its config has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.support.tiny import tokenizer

# What a key is set to where a config has it.
SMALL: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "d_model": 64, "n_embd": 64, "n_layer": 2,
    "n_layers": 2, "n_head": 4, "n_heads": 4, "n_positions": 512, "n_ctx": 512, "rotary_dim": 8, "ffn_dim": 96,
    "n_inner": 96, "word_embed_proj_dim": 64, "attention_heads": 4, "num_layers": 2, "num_heads": 4, "max_seq_len": 512,
    "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 96, "encoder_layers": 2,
    "encoder_attention_heads": 4, "encoder_ffn_dim": 96, "moe_intermediate_size": 32, "num_experts": 4,
    "num_local_experts": 4, "num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1,
    "topk_group": 1, "moe_topk": 2, "moe_k": 2, "moe_num_experts": 4, "shared_expert_intermediate_size": 48,
    "shared_intermediate_size": 48, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16, "v_head_dim": 16, "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 16,
    "mamba_n_groups": 1, "mamba_num_heads": 8, "mamba_head_dim": 16, "mamba_d_ssm": 128, "mamba_dt_rank": 8,
    "ssm_state_size": 8, "state_size": 8, "time_step_rank": 8, "conv_kernel": 4, "n_groups": 1, "n_mamba_heads": 2,
    "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_num_value_heads": 4, "linear_value_head_dim": 16,
    "linear_num_attention_heads": 4, "linear_head_dim": 16, "lru_width": 64, "attention_window_size": 64,
    "sliding_window": 64, "embedding_size": 64, "sinusoidal": False, "dim_model_base": 32, "dim_model": 64,
    "first_k_dense_replace": 1, "num_dense_layers": 1, "index_head_dim": 16, "index_n_heads": 4, "index_topk": 8,
    "swa_head_dim": 16, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "num_memory_blocks": 1,
    "expert_ffn_hidden_size": 32, "ffn_hidden_size": 96, "zero_expert_num": 0, "o_lora_rank": 32, "o_groups": 2,
    "moe_shared_expert_intermediate_size": 32, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 320,
    "attention_hidden_size": 64, "expert_intermediate_size": 32, "attention_head_dim": 16, "dim_head": 16, "dim_ff": 96,
    "num_mem_blocks": 1, "hybrid_layer_ids": [1], "patch_size": 14, "image_size": 28, "depth": 1, "embed_dim": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

# What a family needs beside.
EXTRA: dict[str, dict[str, Any]] = {
    "zaya": {"num_experts_per_tok": 1},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"]},
    "mamba2": {"num_heads": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
}


def causal_families() -> dict[str, str]:
    """Model type -> architecture, of every causal LM of transformers."""
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return {kind: name if isinstance(name, str) else name[0] for kind, name in names.items()}


def tiny_config(model_type: str, **settings: Any) -> Any:
    """A family's config with small sizes. Fails as transformers fails for one that cannot be made so small."""
    config_class = CONFIG_MAPPING[model_type]
    default = config_class()
    known = {**dict.fromkeys(config_class.attribute_map), **default.to_dict()}
    return config_class(**{**_small(known), **EXTRA.get(model_type, {}), **settings})


def _small(known: dict[str, Any]) -> dict[str, Any]:
    """The small values of the keys that a config has, and of the configs inside it."""
    small = {key: value for key, value in SMALL.items() if key in known}
    if "kv_lora_rank" in known:
        small["num_key_value_heads"] = small["num_attention_heads"]  # latent attention has no grouped heads
    nested = {key: value for key, value in known.items() if isinstance(value, dict) and "model_type" in value}
    return {**small, **{key: {"model_type": value["model_type"], **_small(value)} for key, value in nested.items()}}


def random_model(model_type: str, seed: int = 0, **settings: Any) -> Any:
    """A causal LM in bfloat16, with norms, biases, scales and buffers away from their initial values."""
    config = tiny_config(model_type, **settings)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{model_type} is not a causal LM")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.08)
    return model


def write(folder: Path, model: Any) -> Path:
    """Saves a model with the test tokenizer."""
    model.save_pretrained(folder)
    tokenizer(False).save_pretrained(folder)
    return folder
