"""Conversion of quantised checkpoints against `cp`: Qwen3-4B's shape in INT8 and in W4A16, as llm-compressor stores them.

python -m benchmarks.quantised [--layers 36] [--rounds 3] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conversion import write_tokenizer
from benchmarks.process import Measured, run
from jaxconv.checkpoint import DTYPE_BITS
from jaxconv.families import family_for
from jaxconv.quantisation import Source, open_quantisation
from jaxconv.safetensors_header import INDEX, header_bytes

CHUNK = 1 << 24  # bytes
WEIGHTS = {
    "int8": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True},
    "w4a16": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True},
}
FORMATS = {"int8": "int-quantized", "w4a16": "pack-quantized"}
Stored = dict[str, tuple[str, tuple[int, ...], int]]


def config_of(scheme: str, layers: int, tied: bool) -> dict[str, Any]:
    """The config.json of a checkpoint of Qwen3-4B's shape."""
    group = {"targets": ["Linear"], "weights": WEIGHTS[scheme], "input_activations": None, "format": FORMATS[scheme]}
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 2560, "head_dim": 128,
        "num_hidden_layers": layers, "intermediate_size": 9728, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 4096, "vocab_size": 151936, "tie_word_embeddings": tied, "torch_dtype": "bfloat16",
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu", "eos_token_id": 2, "pad_token_id": 2,
        "quantization_config": {
            "quant_method": "compressed-tensors", "format": FORMATS[scheme], "config_groups": {"group_0": group},
            "ignore": ["lm_head"], "quantization_status": "compressed",
        },
    }  # fmt: skip


def stored_tensors(config: dict[str, Any]) -> Stored:
    """Dtype, shape and bytes of every tensor, in file order."""
    opened = open_quantisation(config, Source({}))
    assert opened is not None
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, parameter in family_for(config).parameters(config).items():
        storage = opened.quantisation.storage(name, parameter)
        if storage is None:
            tensors[name] = ("BF16", parameter.shape)
            continue
        for part_name, part in storage.names().items():
            if part.required:
                dtype = next(dtype for dtype in ("BF16", "I64", "I32", "I8") if dtype in part.dtypes)
                tensors[part_name] = (dtype, part.shapes[0])
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = ("BF16", (config["vocab_size"], config["hidden_size"]))
    return {name: (dtype, shape, math.prod(shape) * DTYPE_BITS[dtype] // 8) for name, (dtype, shape) in tensors.items()}


def make_source(folder: Path, config: dict[str, Any]) -> None:
    """Writes the checkpoint in two shards, a chunk at a time."""
    folder.mkdir(parents=True)
    tensors, random = stored_tensors(config), np.random.default_rng(0)
    half, filled, weight_map = sum(size for _, _, size in tensors.values()) // 2, 0, {}
    shards: list[Stored] = [{}, {}]
    for name, entry in tensors.items():
        shards[int(filled > half)][name] = entry
        filled += entry[2]
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        weight_map |= dict.fromkeys(shard, file)
        with (folder / file).open("wb") as opened:
            opened.write(header_bytes(shard, {"format": "pt"}))
            for dtype, _, size in shard.values():
                for left in range(size, 0, -CHUNK):
                    bits = random.integers(0, 1 << 16, min(left, CHUNK) // 2 + 1, np.uint16)
                    # Of floats sign and mantissa are random, the exponent is that of 2**-6: small finite numbers.
                    bits = (bits & 0x807F) | (121 << 7) if dtype == "BF16" else bits
                    opened.write(bits.tobytes()[: min(left, CHUNK)])
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": filled}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)


def commands(source: Path, output: Path) -> dict[str, list[str]]:
    """What is measured, by the name in the table."""
    convert = [sys.executable, "-m", "jaxconv", "convert", str(source), str(output), "--backend", "numpy", "--quiet"]
    convert += ["--classifier-from-tokens", '["no", "yes"]', "--method", "from_2_way_softmax"]
    found = {
        "cp -r": ["cp", "-r", str(source), str(output)],
        "jaxconv copy": convert,
        "jaxconv link": [*convert, "--copy-mode", "link"],
    }
    last, head = source / "model-00002-of-00002.safetensors", head_bytes(source)
    if head:  # what no link can avoid: the backbone of the shard that holds the head, written and synced
        copied = ["dd", f"if={last}", f"of={output / 'shard'}", "bs=8M", "iflag=count_bytes", "conv=fsync", "status=none"]
        copied.append(f"count={last.stat().st_size - head}")
        found["cp of the head's shard"] = ["sh", "-c", f"mkdir {shlex.quote(str(output))} && {shlex.join(copied)}"]
    return found


def head_bytes(source: Path) -> int:
    """Bytes of the untied head of a source; 0 of a tied one."""
    tensors = stored_tensors(json.loads((source / "config.json").read_text()))
    return tensors["lm_head.weight"][2] if "lm_head.weight" in tensors else 0


def main() -> None:
    """Makes each source, runs every command in turn and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are made, on the disk to be measured")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, {arguments.layers} layers, median of {arguments.rounds} rounds\n")
    print("| | GB | seconds | x cp | peak MB | of them not mapped |\n|---|---:|---:|---:|---:|---:|")
    for scheme in FORMATS:
        for tied in (True, False):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
                measure(Path(scratch), config_of(scheme, arguments.layers, tied), arguments.rounds)


def measure(scratch: Path, config: dict[str, Any], rounds: int) -> None:
    """Prints the rows of one checkpoint."""
    source, output = scratch / "source", scratch / "output"
    make_source(source, config)
    nbytes = sum(path.stat().st_size for path in source.iterdir())
    results: dict[str, list[Measured]] = {}
    for _ in range(rounds):
        for name, command in commands(source, output).items():
            for path in source.iterdir():  # the same page cache for everyone
                run(["dd", f"if={path}", "of=/dev/null", "bs=8M", "status=none"])
            os.sync()
            results.setdefault(name, []).append(run(command))
            shutil.rmtree(output)
    copy = statistics.median(measured.seconds for measured in results["cp -r"])
    label = f"{config['quantization_config']['format']}, {'tied' if config['tie_word_embeddings'] else 'untied'}"
    for name, values in results.items():
        seconds = statistics.median(v.seconds for v in values)
        peak, anonymous = max(v.peak_mb for v in values), max(v.anonymous_mb for v in values)
        print(
            f"| {label}: {name} | {nbytes / 1e9:.2f} | {seconds:.2f} | {seconds / copy:.2f} | {peak:.0f} | {anonymous:.0f} |"
        )


if __name__ == "__main__":
    main()
