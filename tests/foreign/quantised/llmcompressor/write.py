"""Checkpoints of llm-compressor.

python -m tests.foreign.quantised.llmcompressor.write OUTDIR [CASE ...]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, apply_quantization_config
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM

from tests.foreign.packing import token_ids
from tests.foreign.quantised.originals import MAX_SHARD, write_plain
from tests.foreign.quantised.torch_side import last_logits, load, pack_case

INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel"}
FP8_TENSOR = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}
CASES: dict[str, dict[str, Any]] = {
    "int8_qwen3": {"family": "qwen3", "scheme": "W8A8"},
    "int8_gemma_tied_shards": {"family": "gemma", "scheme": "W8A8", "shards": True},
    "int8_llama_two_layers_ignored": {"family": "llama", "scheme": "W8A8", "settings": {"num_hidden_layers": 2,
        "intermediate_size": 128}, "ignore": ["lm_head", "re:.*layers.1.*down_proj", "model.layers.0.self_attn.o_proj"]},
    "int8_asymmetric_qwen2": {"family": "qwen2", "groups": {"group_0": {"targets": ["Linear"],
        "weights": {**INT4, "num_bits": 8, "symmetric": False},
        "input_activations": {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}}}},
    "fp8_channel_llama": {"family": "llama", "scheme": "FP8_DYNAMIC"},
    "fp8_channel_qwen3_tied_shards": {"family": "qwen3", "scheme": "FP8_DYNAMIC", "shards": True, "tied": True},
    "fp8_block_qwen2_tied": {"family": "qwen2", "scheme": "FP8_BLOCK", "tied": True},
    "fp8_static_llama_kv_cache": {"family": "llama", "scheme": "FP8", "calibrate": True, "kv_cache": True},
    "int4_group_qwen3_shards": {"family": "qwen3", "scheme": "W4A16", "shards": True},
    "int4_asymmetric_llama_tied": {"family": "llama", "tied": True, "groups": {"group_0": {"targets": ["Linear"],
        "weights": {**INT4, "symmetric": False, "strategy": "group", "group_size": 32}}}},
    "int4_channel_gemma": {"family": "gemma", "groups": {"group_0": {"targets": ["Linear"], "weights": INT4}}},
    "int4_channel_asymmetric_qwen2": {"family": "qwen2", "groups": {"group_0": {"targets": ["Linear"],
        "weights": {**INT4, "symmetric": False}}}},
    "int8_packed_qwen3": {"family": "qwen3", "scheme": "W8A16"},
    "nvfp4_weights_gemma": {"family": "gemma", "scheme": "NVFP4A16"},
    "nvfp4_qwen3": {"family": "qwen3", "scheme": "NVFP4", "calibrate": True},
    "mixed_fp8_int4_llama": {"family": "llama", "schemes": {"FP8_DYNAMIC": ["re:.*self_attn.(q|k|v|o)_proj$"],
        "W4A16": ["re:.*mlp.*", "model.layers.0.mlp.down_proj"]}},
}  # fmt: skip


def recipe(case: dict[str, Any]) -> QuantizationModifier:
    """The modifier of a case: one scheme for all linears, one per target, or groups written out."""
    options: dict[str, Any] = {"ignore": case.get("ignore", ["lm_head"])}
    if "groups" in case:
        options["config_groups"] = {name: QuantizationScheme.model_validate(group) for name, group in case["groups"].items()}
    else:
        options |= {"targets": "Linear", "scheme": case.get("scheme", case.get("schemes"))}
    if "schemes" in case:
        del options["targets"]
    if case.get("kv_cache"):
        options["kv_cache_scheme"] = FP8_TENSOR
    return QuantizationModifier(**options)


def calibration(vocab_size: int) -> dict[str, Any]:
    """What oneshot needs where scales of activations are stored."""
    rows = {"input_ids": token_ids(vocab_size), "attention_mask": [[1] * 12] * 2}
    return {"dataset": Dataset.from_dict(rows), "max_seq_length": 12, "num_calibration_samples": 2}


def dequantised(checkpoint: Path, plain: Path) -> dict[str, torch.Tensor]:
    """The library's own decompression of every module that its own reader holds for quantised."""
    tensors = load(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())["quantization_config"]
    for key in ("sparsity_config", "transform_config", "version"):
        config.pop(key)
    model = AutoModelForCausalLM.from_pretrained(plain)
    apply_quantization_config(model, QuantizationConfig.model_validate(config))
    weights = {}
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or not isinstance(module, torch.nn.Linear):
            continue
        compressor = BaseCompressor.get_value_from_registry(scheme.format or config["format"])
        local = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        weights[name] = compressor.decompress(local, scheme)["weight"]
    return weights


def write(name: str, out: Path) -> None:
    """Makes one case."""
    case = CASES[name]
    settings = {**case.get("settings", {}), "tie_word_embeddings": case.get("tied", case["family"] == "gemma")}
    with tempfile.TemporaryDirectory() as made:
        plain = write_plain(Path(made, "plain"), case["family"], **settings)
        model = AutoModelForCausalLM.from_pretrained(plain, dtype="auto")
        data = calibration(model.config.vocab_size) if case.get("calibrate") else {}
        oneshot(model=model, recipe=recipe(case), **data)
        checkpoint = Path(made, "quantised")
        shards = {"max_shard_size": MAX_SHARD} if case.get("shards") else {}
        model.save_pretrained(checkpoint, save_compressed=True, **shards)
        weights = dequantised(checkpoint, plain)
        try:
            read = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
            logits = last_logits(read, read.config.vocab_size)
        except Exception as error:
            print(name, "does not run in float32:", repr(error)[:200])
            logits = None
        pack_case(
            out / f"{name}.tar.xz", checkpoint, library="llm-compressor",
            packages=("llmcompressor", "compressed-tensors", "transformers", "torch"), family=case["family"],
            dequantised=weights, logits=logits, notes=case.get("notes", ""),
        )  # fmt: skip


if __name__ == "__main__":
    for wanted in sys.argv[2:] or CASES:
        write(wanted, Path(sys.argv[1]))
