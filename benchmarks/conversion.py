"""Conversion against `cp` and against the whole-model route, on a random checkpoint of Qwen3-4B's shape.

python -m benchmarks.conversion [--size-gb 8] [--rounds 3] [--no-whole-model]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import Measured, run
from jaxconv.families import family_for

EMBEDDING = "model.embed_tokens.weight"
CHUNK = 1 << 23  # elements
WHOLE_MODEL = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
source, output = sys.argv[1:]
causal = AutoModelForCausalLM.from_pretrained(source)
model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, ignore_mismatched_sizes=True)
rows = causal.lm_head.weight.detach()
with torch.no_grad():
    model.score.weight.copy_((rows[1].float() - rows[0].float())[None])
model.save_pretrained(output)
"""


def make_source(folder: Path, size_gb: float) -> None:
    """Writes the checkpoint in two shards, a chunk at a time; `size_gb` scales the number of layers."""
    layers = max(1, round(36 * size_gb / 8))
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 2560, "head_dim": 128,
        "num_hidden_layers": layers, "intermediate_size": 9728, "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "num_key_value_heads": 8, "vocab_size": 151936, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu", "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    write_checkpoint(
        folder, config, {name: parameter.shape for name, parameter in family_for(config).parameters(config).items()}
    )


def write_checkpoint(folder: Path, config: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Writes random tensors of these shapes in two shards, a chunk at a time, with their index, config and a tokenizer."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    total = sum(2 * math.prod(shape) for shape in shapes.values())
    shards: list[list[str]] = [[], []]
    filled = 0
    for name, shape in shapes.items():
        shards[int(filled > total // 2)].append(name)
        filled += 2 * math.prod(shape)
    random, where = np.random.default_rng(0), {}
    for number, shard in enumerate(filter(None, shards), 1):
        file = f"model-{number:05d}-of-{sum(map(bool, shards)):05d}.safetensors"
        where.update(dict.fromkeys(shard, file))
        _write(folder / file, {name: shapes[name] for name in shard}, random)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of a thousand words, "no" and "yes" among them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"no": 0, "yes": 1, "<|end|>": 2, "<unk>": 3, **{f"word{i}": i for i in range(4, 1000)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|end|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "unk_token": "<unk>"}))


def _write(path: Path, shapes: dict[str, tuple[int, ...]], random: np.random.Generator) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for left in range(end // 2, 0, -CHUNK):
            # Sign and mantissa are random, the exponent is that of 2**-6: small finite numbers.
            bits = random.integers(0, 1 << 16, min(left, CHUNK), np.uint16)
            file.write(((bits & 0x807F) | (121 << 7)).astype("<u2").tobytes())


def commands(source: Path, output: Path, whole_model: bool) -> dict[str, list[str]]:
    """What is measured, by the name in the table."""
    copy = {"cp -r": ["cp", "-r", str(source), str(output)]}
    conversions = {
        f"jaxconv {mode}, {backend}": convert_command(source, output, "--backend", backend, "--copy-mode", mode)
        for mode in ("copy", "link")
        for backend in ("jax", "torch")
    }
    script = {"whole model, transformers": [sys.executable, "-c", WHOLE_MODEL, str(source), str(output)]}
    return copy | conversions | (script if whole_model else {})


def convert_command(source: Path, output: Path, *options: str) -> list[str]:
    """A conversion on the command line."""
    return [
        sys.executable, "-m", "jaxconv", "convert", str(source), str(output), "--classifier-from-tokens", '["no", "yes"]',
        "--method", "from_2_way_softmax", "--quiet", *options,
    ]  # fmt: skip


def measure(source: Path, output: Path, named: Mapping[str, Sequence[str]], rounds: int) -> None:
    """Runs every command in turn, `rounds` times over, and prints the table; the whole-model route runs once."""
    nbytes = sum(path.stat().st_size for path in source.iterdir())
    results: dict[str, list[Measured]] = {}
    for _ in range(rounds):
        for name, command in named.items():
            if name.startswith("whole") and name in results:
                continue
            for path in source.iterdir():  # the same page cache for everyone
                run(["dd", f"if={path}", "of=/dev/null", "bs=8M", "status=none"])
            os.sync()
            results.setdefault(name, []).append(run(command))
            shutil.rmtree(output)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"\n{nbytes / 1e9:.2f} GB, {machine}, median of {rounds} rounds\n")
    print("| | seconds | x cp | peak MB |\n|---|---:|---:|---:|")
    copy = statistics.median(measured.seconds for measured in results["cp -r"])
    for name, values in results.items():
        seconds, peak = statistics.median(v.seconds for v in values), max(v.peak_mb for v in values)
        print(f"| {name} | {seconds:.2f} | {seconds / copy:.2f} | {peak:.0f} |")


def main() -> None:
    """Makes the source, runs every command in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gb", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are made, on the disk to be measured")
    parser.add_argument("--no-whole-model", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        source, output = Path(scratch, "source"), Path(scratch, "output")
        make_source(source, arguments.size_gb)
        measure(source, output, commands(source, output, not arguments.no_whole_model), arguments.rounds)


if __name__ == "__main__":
    main()
