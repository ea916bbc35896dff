"""Checkpoints of torchao, through transformers.

python -m tests.foreign.quantised.torchao.write OUTDIR [CASE ...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torchao.quantization import (
    Float8WeightOnlyConfig,
    FqnToConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    MappingType,
    PerGroup,
)
from transformers import AutoModelForCausalLM, TorchAoConfig

from tests.foreign.quantised.originals import MAX_SHARD, write_plain
from tests.foreign.quantised.torch_side import last_logits, pack_case

ASYMMETRIC = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32), mapping_type=MappingType.ASYMMETRIC)
CASES: dict[str, dict[str, Any]] = {
    "int8_weights_qwen3": {"family": "qwen3", "config": Int8WeightOnlyConfig()},
    "int8_llama_tied_shards": {
        "family": "llama",
        "config": Int8DynamicActivationInt8WeightConfig(),
        "tied": True,
        "shards": True,
    },
    "fp8_weights_qwen2": {"family": "qwen2", "config": Float8WeightOnlyConfig()},
    "int4_codes_asymmetric_gemma": {
        "family": "gemma",
        "config": ASYMMETRIC,
    },
    "int8_by_name_llama": {
        "family": "llama",
        "config": FqnToConfig({"_default": Int8WeightOnlyConfig(), "re:.*down_proj": None}),
    },
}


def dequantised(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The library's own dequantisation of every quantised weight; float32 where the class gives it."""
    weights = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if type(weight.data if isinstance(weight, torch.nn.Parameter) else weight) in (torch.Tensor, type(None)):
            continue
        try:
            weights[name] = weight.dequantize(output_dtype=torch.float32).detach()
        except TypeError:
            weights[name] = weight.dequantize().detach()
    return weights


def write(name: str, out: Path) -> None:
    """Makes one case."""
    case = CASES[name]
    settings = {"tie_word_embeddings": case.get("tied", case["family"] == "gemma")}
    with tempfile.TemporaryDirectory() as made:
        plain = write_plain(Path(made, "plain"), case["family"], **settings)
        options = {"quantization_config": TorchAoConfig(quant_type=case["config"]), "dtype": torch.bfloat16}
        model = AutoModelForCausalLM.from_pretrained(plain, **options)
        checkpoint = Path(made, "quantised")
        model.save_pretrained(checkpoint, **({"max_shard_size": MAX_SHARD} if case.get("shards") else {}))
        read = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
        try:
            wide = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
            logits = last_logits(wide, wide.config.vocab_size)
        except Exception as error:
            print(name, "does not run in float32:", repr(error)[:200])
            logits = None
        pack_case(
            out / f"{name}.tar.xz", checkpoint, library="torchao", packages=("torchao", "transformers", "torch"),
            family=case["family"], dequantised=dequantised(read), logits=logits, notes=case.get("notes", ""),
        )  # fmt: skip


if __name__ == "__main__":
    for wanted in sys.argv[2:] or CASES:
        write(wanted, Path(sys.argv[1]))
