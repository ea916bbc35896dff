"""GPTQ and AWQ checkpoints of GPTQModel.

python -m tests.foreign.quantised.gptqmodel.write OUTDIR [CASE ...]
"""

from __future__ import annotations

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["GPTQMODEL_CPU_WORKERS"] = "2"  # its loader wants two, whatever the machine has

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from gptqmodel import GPTQModel, QuantizeConfig

from tests.foreign.packing import token_ids
from tests.foreign.quantised.originals import write_plain
from tests.foreign.quantised.torch_side import load, pack_case

COMPANIONS = ("config.json", "model.safetensors", "quantize_config.json", "quant_config.json", "generation_config.json")
INT4 = {"bits": 4, "desc_act": False}
AWQ = {"bits": 4, "method": "awq", "format": "gemm", "sym": False}
DYNAMIC = {r"-:.*\.down_proj": {}, r"+:.*\.up_proj": {"bits": 8, "group_size": 32}}
CASES: dict[str, dict[str, Any]] = {
    "gptq_qwen3": {"family": "qwen3", "config": {**INT4, "group_size": 32}},
    "gptq_activation_order_qwen3_tied": {"family": "qwen3", "tied": True, "config": {"bits": 4, "group_size": 64,
        "desc_act": True, "act_group_aware": False}},
    "gptq_v2_asymmetric_qwen2": {"family": "qwen2", "config": {**INT4, "group_size": 32, "sym": False, "format": "gptq_v2"}},
    "gptq_int8_channel_gemma": {"family": "gemma", "config": {"bits": 8, "group_size": -1, "desc_act": False,
        "act_group_aware": False}},
    "gptq_dynamic_qwen2_tied": {"family": "qwen2", "tied": True, "config": {**INT4, "group_size": 64, "dynamic": DYNAMIC}},
    "awq_qwen3": {"family": "qwen3", "backend": "awq_torch", "config": {**AWQ, "group_size": 64}},
    "awq_qwen2_tied": {"family": "qwen2", "tied": True, "backend": "awq_torch", "config": {**AWQ, "group_size": 32}},
}  # fmt: skip


def dequantised(folder: Path, backend: str) -> dict[str, torch.Tensor]:
    """The library's own dequantisation of every module, output features first, in the dtype of the stored scales."""
    scales = next(tensor for name, tensor in load(folder).items() if name.endswith(".scales"))
    model = GPTQModel.load(str(folder), device="cpu", backend=backend, dtype=scales.dtype).model
    weights = {}
    for name, module in model.named_modules():
        if hasattr(module, "dequantize_weight"):
            weights[name] = module.dequantize_weight().T.contiguous()
        elif "Awq" in type(module).__name__:
            from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

            size = module.group_size if module.group_size != -1 else module.in_features
            weights[name] = dequantize_gemm(module.qweight, module.qzeros, module.scales, module.bits, size).T.contiguous()
    return weights


def write(name: str, out: Path) -> None:
    """Makes one case."""
    case = CASES[name]
    settings = {"tie_word_embeddings": case.get("tied", case["family"] == "gemma")}
    with tempfile.TemporaryDirectory() as made:
        plain = write_plain(Path(made, "plain"), case["family"], **settings)
        model = GPTQModel.load(str(plain), QuantizeConfig(**case["config"]), device="cpu")
        rows = [
            {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, 12, dtype=torch.long)}
            for ids in token_ids(192)
        ]
        model.quantize(rows * 16, batch_size=1)
        checkpoint = Path(made, "quantised")
        model.save(str(checkpoint))
        for path in checkpoint.iterdir():
            if path.name not in COMPANIONS:
                path.unlink()
        weights = dequantised(checkpoint, case.get("backend", "gptq_torch"))
        print({key: (value.dtype, tuple(value.shape)) for key, value in load(checkpoint).items() if "up_proj" in key})
        pack_case(
            out / f"{name}.tar.xz", checkpoint, library="GPTQModel", packages=("gptqmodel", "transformers", "torch"),
            family=case["family"], dequantised=weights, notes=case.get("notes", ""),
        )  # fmt: skip


if __name__ == "__main__":
    for wanted in sys.argv[2:] or CASES:
        write(wanted, Path(sys.argv[1]))
