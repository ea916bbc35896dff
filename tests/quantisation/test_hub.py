"""A large quantised checkpoint on the hub is inspected by its headers, companions and card alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jaxconv
from jaxconv.checkpoint import DTYPE_BITS
from jaxconv.families import family_for
from jaxconv.safetensors_header import INDEX, header_bytes
from tests.support.hub import serving
from tests.support.quantised import TOKENS, quantised_source, tokenizer
from tests.test_sources import run

QWEN3_8B: dict[str, Any] = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 4096, "intermediate_size": 12288,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "max_position_embeddings": 40960,
    "quantization_config": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
    },
}  # fmt: skip


def fp8_tensors(config: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every tensor of an FP8-block checkpoint: codes and scales of the linears, the rest in bfloat16."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, parameter in family_for(config).parameters(config).items():
        if parameter.kind != "linear":
            tensors[name] = ("BF16", parameter.shape)
            continue
        rows, columns = parameter.shape
        tensors[name] = ("F8_E4M3", parameter.shape)
        tensors[f"{name}_scale_inv"] = ("F32", (-(-rows // 128), -(-columns // 128)))
    tensors["lm_head.weight"] = ("BF16", (config["vocab_size"], config["hidden_size"]))
    return tensors


def write_sparse(folder: Path, config: dict[str, Any], shards: int) -> int:
    """A checkpoint whose headers are real and whose data is a hole in the file. Returns its size in bytes."""
    tensors = fp8_tensors(config)
    names, weight_map, total = list(tensors), {}, 0
    step = -(-len(names) // shards)
    for number in range(shards):
        sizes = {
            name: (dtype, shape, math.prod(shape) * DTYPE_BITS[dtype] // 8)
            for name, (dtype, shape) in tensors.items()
            if name in names[number * step : (number + 1) * step]
        }
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        header, data = header_bytes(sizes, {"format": "pt"}), sum(size for _, _, size in sizes.values())
        with (folder / file).open("wb") as opened:
            opened.write(header)
            opened.truncate(len(header) + data)
        weight_map |= dict.fromkeys(sizes, file)
        total += data
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer().save_pretrained(folder)
    return total


def test_an_8b_checkpoint_is_inspected_by_headers(tmp_path: Path) -> None:
    """Of nine gigabytes of weights no more than the headers are asked for, and the answer is that for the folder."""
    folder = tmp_path / "repo"
    folder.mkdir()
    total = write_sparse(folder, QWEN3_8B, shards=2)
    assert total > 8 << 30
    tokens = json.dumps(TOKENS)
    with serving({"team/reranker-fp8": folder}) as server:
        found = run("inspect", server.url, tmp_path, "team/reranker-fp8", "--classifier-from-tokens", tokens, "--json")
        assert found.returncode == 0, found.stderr
        assert len(server.ranges) == 2 and sum(length for _, _, length in server.ranges) <= 200_002
    description = json.loads(found.stdout)
    assert description["convertible"] and description["bytes"] == total
    assert description["quantisation"] == "fp8, in blocks of 128 x 128"
    expected = jaxconv.inspect(folder, classifier_from_tokens=TOKENS)
    assert description == {**expected, "source": "team/reranker-fp8"}


def test_companions_come_from_the_hub(tmp_path: Path) -> None:
    """hf_quant_config.json is fetched, copied and kept in step."""
    case = quantised_source("modelopt/fp8_llama", tmp_path)
    tokens = json.dumps(TOKENS)
    with serving({"team/fp8": case.folder}) as server:
        found = run(
            "convert", server.url, tmp_path, "team/fp8", str(tmp_path / "out"), "--classifier-from-tokens", tokens,
            "--backend", "numpy",
        )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert json.loads((tmp_path / "out" / "hf_quant_config.json").read_text()) == case.open().edits["hf_quant_config.json"]
