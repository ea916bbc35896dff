"""Checkpoints of NVIDIA's Model Optimizer.

python -m tests.foreign.quantised.modelopt.write OUTDIR [CASE ...]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.quantization.qtensor import FP8QTensor, MXFP8QTensor, NVFP4QTensor
from transformers import AutoModelForCausalLM

from tests.foreign.packing import token_ids
from tests.foreign.quantised.originals import MAX_SHARD, write_plain
from tests.foreign.quantised.torch_side import load, pack_case

CASES: dict[str, dict[str, Any]] = {
    "fp8_llama": {"family": "llama", "config": "FP8_DEFAULT_CFG"},
    "fp8_qwen3_tied_shards": {"family": "qwen3", "config": "FP8_DEFAULT_CFG", "tied": True, "shards": True},
    "fp8_channel_qwen2": {"family": "qwen2", "config": "FP8_PER_CHANNEL_PER_TOKEN_CFG"},
    "fp8_block_llama": {"family": "llama", "config": "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG"},
    "mxfp8_qwen3": {"family": "qwen3", "config": "MXFP8_DEFAULT_CFG"},
    "nvfp4_qwen3": {"family": "qwen3", "config": "NVFP4_DEFAULT_CFG"},
    "nvfp4_weights_llama_tied": {"family": "llama", "config": "W4A16_NVFP4_CFG", "tied": True},
    "nvfp4_feed_forward_gemma": {"family": "gemma", "config": "NVFP4_MLP_ONLY_CFG",
                                 "notes": "the attention is plain, left out by a wildcard"},
    "mixed_fp8_nvfp4_llama": {"family": "llama", "config": "FP8_DEFAULT_CFG", "fp4": "*mlp.up_proj*"},
    "int4_awq_llama": {"family": "llama", "config": "INT4_AWQ_CFG", "refused": "W4A16_AWQ"},
}  # fmt: skip


def recipe(case: dict[str, Any]) -> dict[str, Any]:
    """modelopt's configuration; a mixed one takes NVFP4's numbers for the modules that `fp4` matches."""
    chosen: dict[str, Any] = {**getattr(mtq, case["config"])}
    if "fp4" in case:
        theirs = {entry["quantizer_name"]: entry["cfg"] for entry in mtq.NVFP4_DEFAULT_CFG["quant_cfg"] if "cfg" in entry}
        more = [
            {"quantizer_name": case["fp4"] + kind, "cfg": theirs["*" + kind]}
            for kind in ("weight_quantizer", "input_quantizer")
        ]
        chosen["quant_cfg"] = [*chosen["quant_cfg"], *more]
    return chosen


def dequantised(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The library's own dequantisation of every module with a scale, from what it wrote. bfloat16."""
    weights = {}
    for name in [name for name in tensors if name.endswith(".weight_scale")]:
        module = name.removesuffix(".weight_scale")
        weight, scale = tensors[f"{module}.weight"], tensors[name]
        options: dict[str, Any] = {"scale": scale}
        if f"{module}.weight_scale_2" in tensors:
            shape = torch.Size((weight.shape[0], weight.shape[1] * 2))
            packed = NVFP4QTensor(shape, torch.bfloat16, weight)
            options |= {"double_scale": tensors[f"{module}.weight_scale_2"], "block_sizes": {-1: 16}}
        elif scale.dtype == torch.uint8:
            packed = MXFP8QTensor(weight.shape, torch.bfloat16, weight)
        else:
            packed = FP8QTensor(weight.shape, torch.bfloat16, weight)
            if scale.ndim == 1:
                options["scale"] = scale[:, None]
            elif scale.ndim == 4:
                options |= {"scale": scale.reshape(scale.shape[0], scale.shape[2]), "block_sizes": {-1: 128, -2: 128}}
        # FP8QTensor rounds the scale to the dtype first: float32 keeps the product exact, as kernels do.
        wide = torch.float32 if isinstance(packed, FP8QTensor) else torch.bfloat16
        weights[module] = packed.dequantize(dtype=wide, **options)
    return weights


def write(name: str, out: Path) -> None:
    """Makes one case."""
    case = CASES[name]
    settings = {"tie_word_embeddings": case.get("tied", case["family"] == "gemma")}
    with tempfile.TemporaryDirectory() as made:
        plain = write_plain(Path(made, "plain"), case["family"], **settings)
        model = AutoModelForCausalLM.from_pretrained(plain, dtype="auto")
        ids = torch.tensor(token_ids(model.config.vocab_size))
        mtq.quantize(model, recipe(case), lambda each: each(ids))
        checkpoint = Path(made, "quantised")
        shards = {"max_shard_size": MAX_SHARD} if case.get("shards") else {}
        export_hf_checkpoint(model, export_dir=checkpoint, **shards)
        tensors = load(checkpoint)
        print(json.loads((checkpoint / "config.json").read_text())["quantization_config"])
        facts = {"refused": case["refused"]} if "refused" in case else {}
        pack_case(
            out / f"{name}.tar.xz", checkpoint, library="modelopt", packages=("nvidia-modelopt", "transformers", "torch"),
            family=case["family"], dequantised={} if facts else dequantised(tensors), notes=case.get("notes", ""), **facts,
        )  # fmt: skip


if __name__ == "__main__":
    for wanted in sys.argv[2:] or CASES:
        write(wanted, Path(sys.argv[1]))
