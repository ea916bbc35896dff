"""Cases of EasyDeL: `python -m tests.foreign.easydel.write OUTDIR` in its own environment.

Its attention computes in bfloat16 unless told otherwise (told here), its rope table is always bfloat16. So its logits
are compared twice: with transformers/torch as it is (the tolerance of a case) and with torch's rope table rounded likewise.
"""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import easydel
import jax
import jax.numpy as jnp
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.foreign.originals import write_original
from tests.foreign.packing import SMALL, pack, token_ids, torch_logits, versions

ROPE = (
    "logits_tolerance: EasyDeL's rope table is bfloat16; "
    "with torch's rounded likewise the logits agree to max_difference_same_rope"
)
TOLERANCE = 0.01
CASES: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "notes": "untied"},
    "qwen3_tied": {"family": "qwen3", "settings": {"tie_word_embeddings": True}, "notes": "tied"},
    "gemma2": {
        "family": "gemma2",
        "settings": {"sliding_window": 64, "attn_logit_softcapping": None},
        "notes": "tied; norms zero-centred; no window or cap, for EasyDeL windows the odd layers, not the even ones",
    },
    "mistral_bf16": {"family": "mistral", "dtype": "bfloat16", "notes": "param_dtype=bfloat16; logits from float32"},
    "llama_seq_cls": {"family": "llama", "refused": True, "notes": "LlamaForSequenceClassification with the head `score`"},
}


def load(original: Path, kind: Any, dtype: str) -> Any:
    """The torch load mode `full` rounds to float16."""
    return kind.from_pretrained(
        str(original), from_torch=True, torch_load_mode="streaming", auto_shard_model=True,
        dtype=jnp.float32, param_dtype=jnp.dtype(dtype), precision=jax.lax.Precision.HIGHEST,
        config_kwargs=easydel.EasyDeLBaseConfigDict(attn_dtype=jnp.float32, kvdtype=jnp.float32),
    )  # fmt: skip


def same_rope_logits(original: Path, ids: list[list[int]]) -> np.ndarray[Any, Any]:
    """As `torch_logits`, with the rope table rounded to bfloat16."""
    model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32).eval()
    model.model.rotary_emb.register_forward_hook(lambda _, __, table: tuple(part.bfloat16().float() for part in table))
    with torch.no_grad():
        logits: np.ndarray[Any, Any] = model(torch.tensor(ids)).logits[:, -1].numpy()
    return logits


def classifier(original: Path) -> None:
    """Makes the original a sequence classifier with one label."""
    tensors = load_file(original / "model.safetensors")
    del tensors["lm_head.weight"]
    tensors["score.weight"] = np.linspace(-1, 1, SMALL.get("hidden_size", 32), dtype=np.float32)[None]
    save_file(tensors, original / "model.safetensors", {"format": "pt"})
    config = json.loads((original / "config.json").read_text())
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    config |= {"architectures": ["LlamaForSequenceClassification"], **labels}
    (original / "config.json").write_text(json.dumps(config))


def write_case(name: str, out: Path) -> None:
    case = CASES[name]
    settings, dtype, refused = {**SMALL, **case.get("settings", {})}, case.get("dtype", "float32"), case.get("refused")
    ids = token_ids()
    with tempfile.TemporaryDirectory() as temporary:
        original, checkpoint = write_original(Path(temporary, "o"), case["family"], **settings), Path(temporary, "checkpoint")
        measured: dict[str, Any] = {}
        logits = None
        if refused:
            classifier(original)
            model = load(original, easydel.AutoEasyDeLModelForSequenceClassification, dtype)
        else:
            model = load(original, easydel.AutoEasyDeLModelForCausalLM, "float32")
            with model.mesh:
                batch = jnp.array(ids)
                output = model(input_ids=batch, attention_mask=jnp.ones_like(batch)).logits
            logits = np.asarray(output[:, -1], np.float32)
            difference = float(np.abs(logits - torch_logits(original, ids)).max())
            same_rope = float(np.abs(logits - same_rope_logits(original, ids)).max())
            measured = {"max_difference_to_torch": difference, "max_difference_same_rope": same_rope,
                        "logits_tolerance": TOLERANCE}  # fmt: skip
            if same_rope > 1e-5 or difference > TOLERANCE / 2:
                raise SystemExit(f"{name}: logits differ from transformers/torch: {measured}")
            if dtype != "float32":
                model = load(original, easydel.AutoEasyDeLModelForCausalLM, dtype)
        model.save_pretrained(str(checkpoint))
        config = json.loads((original / "config.json").read_text())
        described = {
            "library": "easydel", "versions": versions("easydel", "eformer", "flax", "jax", "transformers", "torch"),
            "seed": 0, "original_dtype": "float32", "dtype": dtype, "layout": "easydel", "weights": ".", "scanned": False,
            "tied": config["tie_word_embeddings"], "token_ids": ids, "exact": True, **case, **measured, "settings": settings,
            "notes": case["notes"] if refused else f"{case['notes']}. {ROPE}",
        }  # fmt: skip
        target = out / f"{name}.tar.xz"
        pack(target, checkpoint, described, logits)
        count = sum(path.is_file() for path in checkpoint.rglob("*"))
        print(json.dumps({"case": name, **measured, "bytes": target.stat().st_size, "files": count}))


if __name__ == "__main__":
    for wanted in sys.argv[2:] or CASES:
        write_case(wanted, Path(sys.argv[1]))
