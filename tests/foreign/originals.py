"""The Hugging Face checkpoints that the foreign libraries load and save, made again from a seed wherever they are wanted.

Needs NumPy, ml_dtypes and safetensors only, so that every library's own environment can import it. Every value
is a bfloat16 number, whatever dtype it is stored in: fixtures stay small, and a cast to bfloat16 loses nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from jaxconv.families import family_for

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_GEMMA: dict[str, Any] = {
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {"head_dim": 8},
    "qwen3": {},
    "gemma": _GEMMA,
    "gemma2": {**_GEMMA, "query_pre_attn_scalar": 16, "sliding_window": 8, "attn_logit_softcapping": 50.0,
               "final_logit_softcapping": None},
    "gemma3_text": {**_GEMMA, "query_pre_attn_scalar": 16, "sliding_window": 8, "rope_local_base_freq": 10000.0,
                    "rope_theta": 1000000.0, "sliding_window_pattern": 6},
}  # fmt: skip


def original_config(family: str, **settings: Any) -> dict[str, Any]:
    """The config.json of a tiny model; `settings` override single keys."""
    config = {**SIZES, **FAMILIES[family], **settings, "model_type": family, "dtype": "float32"}
    return {"architectures": [family_for({"model_type": family}).architecture], **config}


def original_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor by its Hugging Face name, float32; norms near their neutral value, never at it."""
    family = family_for(config)
    shapes = {name: parameter.shape for name, parameter in family.parameters(config).items()}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], config["hidden_size"])
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = generator.standard_normal(shape).astype(np.float32) * (0.1 if len(shape) == 1 else 0.15)
        if name.endswith("norm.weight") and not config["model_type"].startswith("gemma"):
            values += 1
        tensors[name] = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    return tensors


def write_original(folder: Path, family: str, *, dtype: str = "float32", seed: int = 0, **settings: Any) -> Path:
    """Writes config.json and model.safetensors (float32 or bfloat16). No tokenizer."""
    config = {**original_config(family, **settings), "dtype": dtype}
    folder.mkdir(parents=True, exist_ok=True)
    stored = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
    tensors = {name: array.astype(stored) for name, array in original_tensors(config, seed).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder
