"""fp8 checkpoints to the published layouts.

python -m tests.foreign.quantised.fp8.write OUTDIR [CASE ...]

No library writes these on a CPU: transformers' FineGrainedFP8 needs a GPU to quantise, AutoFP8 is no longer published. The
configurations are those of Qwen's, DeepSeek's and AutoFP8's files. What a weight is comes from transformers, which
dequantises blocks when it loads them. It takes the size of a block for the size of the weight over that of the grid, which is
wrong for partial blocks: those, and one scale per linear, are torch's product.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

from tests.foreign.quantised.originals import write_plain
from tests.foreign.quantised.torch_side import last_logits, load, pack_case

TOP = torch.finfo(torch.float8_e4m3fn).max
BLOCKS: dict[str, Any] = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
ONE: dict[str, Any] = {"activation_scheme": "static", "quant_method": "fp8"}
LEFT_OUT = ["lm_head", "model.layers.0.mlp.down_proj"]
CASES: dict[str, dict[str, Any]] = {
    "block_qwen3_tied_shards": {"family": "qwen3", "tied": True, "config": BLOCKS, "shards": 2},
    "block_list_llama": {"family": "llama", "config": {**BLOCKS, "modules_to_not_convert": LEFT_OUT}},
    "block_partial_qwen2": {"family": "qwen2", "config": {**BLOCKS, "modules_to_not_convert": None},
                            "settings": {"intermediate_size": 192}},
    "block_bf16_scales_llama": {"family": "llama", "config": BLOCKS, "scale": torch.bfloat16},
    "block_e8m0_scales_qwen3": {"family": "qwen3", "config": {**BLOCKS, "scale_fmt": "ue8m0"}, "scale": torch.float8_e8m0fnu},
    "static_llama": {"family": "llama", "config": {**ONE, "ignored_layers": ["lm_head"]}},
    "static_head_qwen3": {"family": "qwen3", "config": {**ONE, "ignored_layers": []}, "head": True,
                          "notes": "the head is fp8 too, with its own scale"},
    "dynamic_gemma": {"family": "gemma", "config": {"activation_scheme": "dynamic", "quant_method": "fp8"}},
}  # fmt: skip


def quantise(weight: torch.Tensor, block: tuple[int, int], scale_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of a matrix in blocks; the last ones may be partial."""
    rows, columns = (math.ceil(size / each) for size, each in zip(weight.shape, block, strict=True))
    padded = torch.zeros(rows * block[0], columns * block[1])
    padded[: weight.shape[0], : weight.shape[1]] = weight.float()
    cells = padded.reshape(rows, block[0], columns, block[1])
    scale = cells.abs().amax((1, 3)).clamp(min=1e-6) / TOP
    if scale_dtype == torch.float8_e8m0fnu:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    scale = scale.to(scale_dtype)
    codes = (cells / scale.float()[:, None, :, None]).clamp(-TOP, TOP).reshape(padded.shape)
    return codes[: weight.shape[0], : weight.shape[1]].to(torch.float8_e4m3fn).contiguous(), scale


def quantised(plain: dict[str, torch.Tensor], case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint."""
    config, tensors = case["config"], {}
    left_out = config.get("modules_to_not_convert") or config.get("ignored_layers") or []
    for name, weight in plain.items():
        module = name.removesuffix(".weight")
        head = module == "lm_head" and case.get("head")
        if not (name.endswith("_proj.weight") and module not in left_out) and not head:
            tensors[name] = weight
            continue
        block = config.get("weight_block_size")
        codes, scale = quantise(weight, block or tuple(weight.shape), case.get("scale", torch.float32))
        tensors[name] = codes
        tensors[f"{module}.{'weight_scale_inv' if block else 'weight_scale'}"] = scale if block else scale.reshape(())
        if config["activation_scheme"] == "static":
            tensors[f"{module}.input_scale"] = torch.tensor(0.03125)
    return tensors


def product(tensors: dict[str, torch.Tensor], module: str) -> torch.Tensor:
    """Codes times scales in float32."""
    codes = tensors[f"{module}.weight"].float()
    if f"{module}.weight_scale" in tensors:
        return codes * tensors[f"{module}.weight_scale"]
    scales = tensors[f"{module}.weight_scale_inv"].float().repeat_interleave(128, 0).repeat_interleave(128, 1)
    return codes * scales[: codes.shape[0], : codes.shape[1]]


def save(tensors: dict[str, torch.Tensor], folder: Path, shards: int) -> None:
    """One file, or shards with an index."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    names = sorted(tensors)
    weight_map = {name: f"model-{i * shards // len(names) + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(weight_map.values())):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, folder / file, {"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def write(name: str, out: Path) -> None:
    """Makes one case."""
    case = CASES[name]
    settings = {**case.get("settings", {}), "tie_word_embeddings": case.get("tied", case["family"] == "gemma")}
    with tempfile.TemporaryDirectory() as made:
        plain = write_plain(Path(made, "plain"), case["family"], **settings)
        checkpoint = Path(made, "quantised")
        checkpoint.mkdir()
        tensors = quantised(load(plain), case)
        save(tensors, checkpoint, case.get("shards", 1))
        config = {**json.loads((plain / "config.json").read_text()), "quantization_config": case["config"]}
        (checkpoint / "config.json").write_text(json.dumps(config, indent=2))
        modules = [key.removesuffix(".weight") for key, tensor in tensors.items() if tensor.dtype == torch.float8_e4m3fn]
        logits = None
        if case["config"].get("weight_block_size") and "partial" not in name:
            options = {"quantization_config": FineGrainedFP8Config(**{**case["config"], "dequantize": True})}
            model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, **options).eval()
            weights = {module: model.get_submodule(module).weight for module in modules}
            logits = last_logits(model.float(), model.config.vocab_size)
        else:
            weights = {module: product(tensors, module) for module in modules}
        pack_case(
            out / f"{name}.tar.xz", checkpoint, library="published layout", packages=("transformers", "torch"),
            family=case["family"], dequantised=weights, logits=logits, notes=case.get("notes", ""),
        )  # fmt: skip


if __name__ == "__main__":
    for wanted in sys.argv[2:] or CASES:
        write(wanted, Path(sys.argv[1]))
