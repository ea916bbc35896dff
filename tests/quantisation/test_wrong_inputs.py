"""Quantised sources that are wrong, or asked for what cannot be done: a message that helps, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxconv
from jaxconv.errors import JaxconvError
from jaxconv.safetensors_header import header_bytes, read_header
from tests.support.quantised import OPTIONS, quantised_source

UP = "model.layers.0.mlp.up_proj"
INT8, INT4, BLOCKS = "llmcompressor/int8_qwen3", "llmcompressor/int4_channel_gemma", "fp8/block_list_llama"
STATIC, MODELOPT, GPTQ = "fp8/static_head_qwen3", "modelopt/fp8_llama", "gptqmodel/gptq_qwen3"
TORCHAO = "torchao/int8_weights_qwen3"
Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


@dataclass(frozen=True)
class Case:
    """One wrong input: what is done to a fixture, the options, and what the message must say."""

    name: str
    fixture: str
    damage: Callable[[Path], None]
    says: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()


def tensors(change: Callable[[Tensors], None], *, metadata: bool = True) -> Callable[[Path], None]:
    """Rewrites model.safetensors with other tensors."""

    def damage(source: Path) -> None:
        path = source / "model.safetensors"
        header, raw = read_header(path), path.read_bytes()
        start = header.data_start
        stored = {
            name: (entry.dtype, entry.shape, raw[start + entry.begin : start + entry.end])
            for name, entry in header.tensors.items()
        }
        change(stored)
        sizes = {name: (dtype, shape, len(data)) for name, (dtype, shape, data) in stored.items()}
        kept = header.metadata if metadata else {"format": "pt"}
        path.write_bytes(header_bytes(sizes, kept) + b"".join(data for _, _, data in stored.values()))

    return damage


def without(name: str) -> Callable[[Path], None]:
    """A tensor left out."""
    return tensors(lambda stored: stored.pop(name) and None)


def other(name: str, dtype: str, shape: tuple[int, ...], itemsize: int) -> Callable[[Path], None]:
    """A tensor of another dtype and shape, of zeros."""

    def change(stored: Tensors) -> None:
        stored[name] = (dtype, shape, bytes(int(np.prod(shape)) * itemsize))

    return tensors(change)


def changed(file: str = "config.json", **entries: Any) -> Callable[[Path], None]:
    """Entries of the quantisation's section in a JSON file; None removes one."""

    def damage(source: Path) -> None:
        document = json.loads((source / file).read_text())
        key = "quantization_config" if file == "config.json" else "quantization"
        section = document[key] | entries
        document[key] = {name: value for name, value in section.items() if value is not None}
        (source / file).write_text(json.dumps(document))

    return damage


def replaced(config: Any) -> Callable[[Path], None]:
    """Another quantization_config, or none."""

    def damage(source: Path) -> None:
        document = json.loads((source / "config.json").read_text())
        document["quantization_config"] = config
        if config is None:
            del document["quantization_config"]
        (source / "config.json").write_text(json.dumps(document))

    return damage


def plain(stored: Tensors) -> None:
    """Every tensor in bfloat16, scales left out."""
    for name, (_, shape, _) in list(stored.items()):
        if name.endswith("_scale"):
            del stored[name]
        else:
            stored[name] = ("BF16", shape, bytes(2 * int(np.prod(shape))))


def cut(source: Path) -> None:
    """The file ends early."""
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def nothing(source: Path) -> None:
    """The source as it is."""


def stray(source: Path) -> None:
    """Plain tensors, no configuration, and a companion that is left over."""
    tensors(plain)(source)
    replaced(None)(source)
    (source / "quantize_config.json").write_text("{}")


def packed_head(stored: Tensors) -> None:
    """The head in words instead of numbers."""
    del stored["lm_head.weight"]
    stored["lm_head.weight_packed"] = ("I32", (192, 32), bytes(192 * 32 * 4))


CASES = [
    Case("missing scale", INT8, without(f"{UP}.weight_scale"), ("1 missing", f"{UP}.weight_scale", "belong together")),
    Case("scale of another shape", INT8, other(f"{UP}.weight_scale", "BF16", (7, 1), 2),
         ("of another dtype or shape", f"{UP}.weight_scale is BF16 [7, 1]; expected")),
    Case("scale of another dtype", BLOCKS, other(f"{UP}.weight_scale_inv", "I32", (2, 1), 4), ("I32 [2, 1]; expected",)),
    Case("packed words of another shape", INT4, other(f"{UP}.weight_packed", "I32", (3, 4), 4),
         ("weight_packed is I32 [3, 4]",)),
    Case("missing linear", GPTQ, without(f"{UP}.qweight"), ("missing", f"{UP}.qweight")),
    Case("unexpected tensor", INT8, other(f"{UP}.lora_A", "BF16", (2, 2), 2), ("1 unexpected", f"{UP}.lora_A")),
    Case("plain weight where packed is promised", INT8, other(f"{UP}.weight", "BF16", (256, 128), 2), (UP,)),
    Case("packed weight that is promised plain", INT8, changed(ignore=["lm_head", UP]),
         ("not as quantization_config says", f"{UP} is plain in quantization_config")),
    Case("list that is not a list", INT8, changed(ignore="lm_head"), ("'lm_head' as ignore; expected a list",)),
    Case("unknown method", INT8, changed(quant_method="hqq"), ("'hqq' as quant_method", "Convert the original model")),
    Case("bitsandbytes", INT8, replaced({"quant_method": "bitsandbytes"}), ("bitsandbytes", "model.dequantize()")),
    Case("gguf", INT8, replaced({"quant_method": "gguf"}), ("gguf", "gguf_file=")),
    Case("mlx", INT8, replaced({"group_size": 64, "bits": 4}), ("mlx", "--dequantize")),
    Case("two companions that disagree", MODELOPT, changed("hf_quant_config.json", quant_algo="NVFP4"),
         ("hf_quant_config.json has 'NVFP4'", "config.json has 'FP8'")),
    Case("lists that disagree", MODELOPT, changed("hf_quant_config.json", exclude_modules=[]),
         ("leave out different modules",)),
    Case("packed head", INT8, tensors(packed_head),
         ("The head is packed", "lm_head.weight_packed", 'with "lm_head" left out')),
    Case("head in 8 bits without a scale", STATIC, without("lm_head.weight_scale"),
         ("lm_head.weight is F8_E4M3 and has no scale",)),
    Case("truncated file", INT4, cut, ("truncated", "ownload")),
    Case("plain tensors", INT8, tensors(plain), ("every tensor is plain", "remove quantization_config from config.json")),
    Case("a companion of plain tensors", INT8, stray, ("quantize_config.json lies beside", "remove that file")),
    Case("no configuration", INT8, replaced(None), ("is quantised", "no quantization_config", "Get the config.json")),
    Case("another scheme than the tensors", INT8,
         replaced({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}),
         ("belong together",)),
    Case("torchao without metadata", TORCHAO, tensors(lambda stored: None, metadata=False), ("no metadata of torchao",)),
    Case("mixed schemes", INT8, changed(config_groups={"a": 1}), ("quantization_config has 1 as a; expected an object",)),
    Case("dtype", INT8, nothing,
         ("--dtype cannot cast a packed backbone", "int8 per channel", "Leave it out"), (("dtype", "float32"),)),
    Case("adapter", INT8, nothing, ("--adapter cannot be merged into a packed backbone", "Merge it into the original"),
         (("adapter", "adapter"),)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrong_input(tmp_path: Path, case: Case) -> None:
    """Refused by `convert`, with what was found and what to do; no output is left."""
    source = quantised_source(case.fixture, tmp_path).folder
    case.damage(source)
    with pytest.raises(JaxconvError) as caught:
        jaxconv.convert(source, tmp_path / "out", **OPTIONS, **dict(case.options))
    for fragment in case.says:
        assert fragment in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fixture", sorted({case.fixture for case in CASES}))
def test_the_same_sources_convert_when_nothing_is_wrong(tmp_path: Path, fixture: str) -> None:
    """So that the cases above fail for their own reason, and rewriting a file is not one."""
    source = quantised_source(fixture, tmp_path).folder
    tensors(lambda stored: None)(source)
    jaxconv.convert(source, tmp_path / "out", **OPTIONS)


def test_there_are_enough_cases() -> None:
    """At least fifteen different ones."""
    assert len({case.name for case in CASES}) == len(CASES) >= 15
