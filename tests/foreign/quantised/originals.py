"""The plain models that the quantisation libraries are given.

Needs NumPy, ml_dtypes and safetensors only, so that every library's own environment can import it. Weights are multiples
of 1/16: fixtures stay small, and every quantiser still has a dozen values to choose codes for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.foreign.cases import write_tokenizer
from tests.foreign.originals import original_config, original_tensors

# Blocks and groups of 128 need these sizes; k_proj and v_proj have 64 rows, half a block.
SIZES: dict[str, Any] = {
    "vocab_size": 192,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
MAX_SHARD = "120KB"


def write_plain(folder: Path, family: str, **settings: Any) -> Path:
    """Writes config.json, model.safetensors (bfloat16) and a tokenizer of a tiny model."""
    config = {**original_config(family, **{**SIZES, **settings}), "dtype": "bfloat16"}
    tensors = {
        name: (np.round(array * 16) / 16 if array.ndim == 2 else array).astype(ml_dtypes.bfloat16)
        for name, array in original_tensors(config, seed=len(family)).items()
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_tokenizer(folder, config["vocab_size"])
    return folder
