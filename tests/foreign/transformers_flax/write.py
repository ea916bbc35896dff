"""Cases of transformers' Flax models: `python -m tests.foreign.transformers_flax.write OUTDIR` in its own environment.

The models hard-code rope base 10000 and head size hidden_size / num_attention_heads (Gemma: head_dim), and Mistral's
window admits one token too many: the settings here are those under which that changes nothing.
"""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import numpy as np
from safetensors.numpy import load_file, save_file
from transformers import FlaxGemmaForCausalLM, FlaxLlamaForCausalLM, FlaxMistralForCausalLM

from tests.foreign.originals import write_original
from tests.foreign.packing import SMALL, pack, token_ids, torch_logits, versions

jax.config.update("jax_default_matmul_precision", "highest")

CLASSES = {"llama": FlaxLlamaForCausalLM, "mistral": FlaxMistralForCausalLM, "gemma": FlaxGemmaForCausalLM}
CASES: dict[str, dict[str, Any]] = {
    "llama_msgpack": {"family": "llama", "settings": {"head_dim": 8}, "notes": "one flax_model.msgpack, untied"},
    "llama_sharded": {"family": "llama", "settings": {"head_dim": 8}, "save": {"max_shard_size": 60_000},
                      "notes": "several msgpack shards and flax_model.msgpack.index.json"},
    "mistral_bf16": {"family": "mistral", "settings": {"head_dim": 8, "sliding_window": 64}, "stored": "bfloat16",
                     "notes": "to_bf16 before saving; config.json says nothing of it"},
    "gemma_tied": {"family": "gemma", "settings": {}, "notes": "no lm_head in the tree; norms zero-centred as in PyTorch"},
    "llama_safetensors": {"family": "llama", "settings": {"head_dim": 8}, "save": {"safe_serialization": True},
                          "notes": "model.safetensors with metadata format flax: Flax names, kernels transposed"},
    "llama_tied": {"family": "llama", "settings": {"head_dim": 8, "tie_word_embeddings": True}, "head": True,
                   "notes": "tied, yet the file holds lm_head.kernel; the original named lm_head.weight, equal to the "
                            "embedding, as PyTorch's .bin files do"},
    "llama_tied_random_head": {"family": "llama", "settings": {"head_dim": 8, "tie_word_embeddings": True}, "refused": True,
                               "notes": "a tied original without lm_head.weight: FlaxLlama ignores the tie and saves a "
                                        "freshly initialised lm_head.kernel that differs from the embedding"},
    "llama_chunked": {"family": "llama", "settings": {"head_dim": 8}, "chunk": 5_000,
                      "notes": "flax.serialization.MAX_CHUNK_SIZE at 5000 bytes, so that larger arrays are chunked"},
}  # fmt: skip


def write_case(name: str, case: dict[str, Any], out: Path) -> None:
    family, settings = case["family"], {**SMALL, **case["settings"]}
    ids = token_ids()
    with tempfile.TemporaryDirectory() as temporary:
        original = write_original(Path(temporary, "original"), family, **settings)
        if case.get("head"):
            tensors = load_file(original / "model.safetensors")
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
            save_file(tensors, original / "model.safetensors", {"format": "pt"})
        model = CLASSES[family].from_pretrained(original, from_pt=True)
        logits = np.asarray(model(np.array(ids)).logits[:, -1], np.float32)
        difference = float(np.abs(logits - torch_logits(original, ids)).max())
        refused = {"refused": True} if case.get("refused") else {}
        if case.get("stored") == "bfloat16":
            model.params = model.to_bf16(model.params)
        flax.serialization.MAX_CHUNK_SIZE = case.get("chunk", 2**30)
        checkpoint = Path(temporary, "checkpoint")
        model.save_pretrained(checkpoint, **case.get("save", {}))
        tied = settings.get("tie_word_embeddings", family == "gemma")
        described = {
            "library": "transformers_flax",
            "versions": versions("transformers", "flax", "jax", "torch"),
            "family": family, "settings": settings, "seed": 0, "original_dtype": "float32",
            "dtype": case.get("stored", "float32"), "layout": "hf_flax", "weights": ".", "scanned": None, "tied": tied,
            "token_ids": ids, "exact": True, "max_difference_to_torch": difference, "notes": case["notes"], **refused,
        }  # fmt: skip
        target = out / f"{name}.tar.xz"
        pack(target, checkpoint, described, None if refused else logits)
        files = sorted(path.name for path in checkpoint.iterdir())
        print(json.dumps({"case": name, "difference": difference, "bytes": target.stat().st_size, "files": files}))
        if difference > 1e-4 and not refused:
            target.unlink()
            raise SystemExit(f"{name}: logits differ from transformers/torch by {difference}")


if __name__ == "__main__":
    for wanted in sys.argv[2:] or CASES:
        write_case(wanted, CASES[wanted], Path(sys.argv[1]))
