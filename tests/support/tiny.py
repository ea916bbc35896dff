"""Tiny random causal LMs of every family, written by transformers itself, with a small real tokenizer."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
HEAD_DIM = {"head_dim": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": HEAD_DIM,
    "mistral": HEAD_DIM,
    "mixtral": {**HEAD_DIM, "num_local_experts": 4},
    "qwen2": {},
    "qwen3": HEAD_DIM,
    "qwen3_moe": {**HEAD_DIM, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "qwen3_5_text": {
        **HEAD_DIM,
        "num_hidden_layers": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": 8,
    },
    "qwen3_5_moe_text": {
        **HEAD_DIM,
        "num_hidden_layers": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48,
    },
    "gemma": HEAD_DIM,
    "gemma2": {**HEAD_DIM, "final_logit_softcapping": None, "query_pre_attn_scalar": 16},
    "gemma3_text": {**HEAD_DIM, "query_pre_attn_scalar": 16},
    "phi3": {"pad_token_id": 0},
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {**HEAD_DIM, "logit_scale": 0.25},
    "olmo2": {},
    "smollm3": {**HEAD_DIM, "pad_token_id": 0},
    "phi": {},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48,
    },
    "starcoder2": {},
    "glm4": {**HEAD_DIM, "pad_token_id": 0},
    "stablelm": {},
}
WITH_BOS = ("llama", "mistral", "gemma", "gemma2", "gemma3_text")
ANSWERS = ["no", "yes", "No", "Yes", "ĠNo", "ĠYes", "0", "1"]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


@functools.cache
def tokenizer(bos: bool, pad: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most 300 pieces that holds the answers as pieces."""
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(["yes no Yes No yes\nno\nYes\nNo\n" * 3, "the the that this"], trainer)
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"pad_token": "<pad>"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", **names)


def tiny_checkpoint(
    folder: Path, model_type: str, *, tie: bool | None = None, shards: int = 1, seed: int = 0, **settings: Any
) -> Path:
    """Writes a random bfloat16 model of a family, norms and biases away from their start values."""
    if tie is not None:
        settings["tie_word_embeddings"] = tie
    config = AutoConfig.for_model(model_type, **{**SIZES, **FAMILIES[model_type], **settings})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.1 if "norm" in name or name.endswith("bias") else 0.08
            parameter.add_(torch.randn_like(parameter) * spread)
    size = sum(p.numel() * 2 for p in model.parameters())
    model.save_pretrained(folder, max_shard_size=size // shards + 1000 if shards > 1 else "5GB")
    tokenizer(model_type in WITH_BOS).save_pretrained(folder)
    return folder
