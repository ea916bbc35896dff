"""Quantised outputs of every scheme that vLLM's CPU build runs, against its own conversion of the same source.

They go through vLLM's engine, five seconds a model; tests/vllm/test_quantised.py asks servers.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import jaxconv
from tests.support.quantised import OPTIONS, TOKENS, quantised_source
from tests.support.vllm_engine import Job, engine_scores
from tests.vllm.test_quantised import DOCUMENTS, QUERY, scores

pytestmark = pytest.mark.vllm
RUNS = [
    "gptqmodel/awq_qwen3", "gptqmodel/gptq_qwen3", "llmcompressor/fp8_channel_llama",
    "llmcompressor/int4_asymmetric_llama_tied", "llmcompressor/int4_channel_gemma", "llmcompressor/int4_group_qwen3_shards",
    "llmcompressor/mixed_fp8_int4_llama", "modelopt/fp8_channel_qwen2", "torchao/fp8_weights_qwen2",
    "torchao/int8_llama_tied_shards", "torchao/int8_weights_qwen3",
]  # fmt: skip
# What the CPU build cannot multiply, or vLLM refuses in any build, and its words; the table is in docs/quantised.md.
AMX = "fp8/block_list_llama"  # where the machine has it, the scores must be equal
REFUSES = {
    AMX: "requires AMX",
    "fp8/static_llama": "static_scaled_fp8_quant",
    "gptqmodel/gptq_activation_order_qwen3_tied": "desc_act=True",
    "gptqmodel/gptq_dynamic_qwen2_tied": "AssertionError",
    "gptqmodel/gptq_int8_channel_gemma": "Marlin does not support weight_bits = uint8b128",
    "gptqmodel/gptq_v2_asymmetric_qwen2": "sym=False",
    "llmcompressor/int8_asymmetric_qwen2": "No compressed-tensors compatible scheme",
    "llmcompressor/int8_packed_qwen3": "uint8b128",
    "llmcompressor/nvfp4_qwen3": "NVFP4",
    "modelopt/mixed_fp8_nvfp4_llama": "Mixed quant_algo within fused layer",
    "modelopt/mxfp8_qwen3": "MXFP8",
    "modelopt/nvfp4_weights_llama_tied": "FP4",
}


def without_entry(source: Path, output: Path) -> None:
    """The output with the quantization_config of its source."""
    path, before = output / "config.json", json.loads((source / "config.json").read_text())
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": before["quantization_config"]}))


def without_description(source: Path, output: Path) -> None:
    """A weight file whose metadata says nothing of the row, in a header of the same length."""
    path = output / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = re.sub(rb', \\"score\.weight\\"(?=\])', b"", raw[8 : 8 + length])
    assert header != raw[8 : 8 + length]
    path.write_bytes(raw[:8] + header.ljust(length) + raw[8 + length :])


# Each edit removed once.
EDITS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "AWQ with a list": ("gptqmodel/awq_qwen3", without_entry),
    "fp8 per channel": ("llmcompressor/fp8_channel_llama", without_entry),
    "W4A16": ("llmcompressor/int4_group_qwen3_shards", without_entry),
    "W4A16 asymmetric": ("llmcompressor/int4_asymmetric_llama_tied", without_entry),
    "modelopt": ("modelopt/fp8_channel_qwen2", without_entry),
    "torchao": ("torchao/int8_weights_qwen3", without_entry),
    "torchao's metadata": ("torchao/int8_weights_qwen3", without_description),
}


@dataclass(frozen=True)
class Found:
    """What vLLM gives for outputs, for its own conversions, and for outputs without an edit."""

    outputs: dict[str, list[float] | str]
    own: dict[str, list[float] | str]
    broken: dict[str, list[float] | str]
    folders: dict[str, Path]


def job(model: Path, template: Path, overrides: dict[str, Any] | None = None) -> Job:
    """Scores of the test's documents."""
    return Job(str(model), str(template), QUERY, DOCUMENTS, overrides or {})


def own_conversion(source: Path, output: Path) -> Job:
    """vLLM's conversion of the source while it loads it, with the output's template."""
    target = json.loads((output / "config.json").read_text())["architectures"]
    overrides = {"architectures": target, "classifier_from_token": TOKENS, "method": "from_2_way_softmax"}
    return job(source, output / "score_template.jinja", overrides)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """All models through one process."""
    scratch = tmp_path_factory.mktemp("engine")
    jobs: dict[tuple[str, str], Job] = {}
    folders = {}
    for name in (*RUNS, *REFUSES):
        source, output = quantised_source(name, scratch / name).folder, scratch / name / "out"
        jaxconv.convert(source, output, **OPTIONS)
        folders[name] = output
        jobs["output", name] = job(output, output / "score_template.jinja")
        if name in RUNS or name == AMX:
            jobs["own", name] = own_conversion(source, output)
    for edit, (name, remove) in EDITS.items():
        broken = scratch / "broken" / edit.replace(" ", "-")
        source = quantised_source(name, broken / "source").folder
        if edit == "AWQ with a list":
            config = json.loads((source / "config.json").read_text())
            config["quantization_config"]["modules_to_not_convert"] = ["lm_head"]
            (source / "config.json").write_text(json.dumps(config))
        jaxconv.convert(source, broken / "right", **OPTIONS)
        shutil.copytree(broken / "right", broken / "out")
        remove(source, broken / "out")
        jobs["broken", edit] = job(broken / "out", broken / "right" / "score_template.jinja")
    results = dict(zip(jobs, engine_scores(list(jobs.values()), scratch / "exchange"), strict=True))
    by_kind = {kind: {name: result for (k, name), result in results.items() if k == kind} for kind, _ in jobs}
    return Found(by_kind["output"], by_kind["own"], by_kind["broken"], folders)


@pytest.mark.parametrize("name", RUNS)
def test_scores_are_those_of_vllms_own_conversion(found: Found, name: str) -> None:
    """Bit for bit the same numbers, and not all the same number."""
    output = found.outputs[name]
    assert isinstance(output, list) and output == found.own[name]
    assert all(map(math.isfinite, output)) and len(set(output)) == len(DOCUMENTS) and 0.0 not in output


@pytest.mark.parametrize("edit", EDITS)
def test_without_the_edit_scores_are_wrong(found: Found, edit: str) -> None:
    """Each edit removed once: the model is refused, or its scores are not finite, or far from the right ones."""
    broken, right = found.broken[edit], found.outputs[EDITS[edit][0]]
    assert isinstance(right, list)
    if isinstance(broken, str):
        assert re.search("output size 1|no kernel|Failed to find a kernel|qdata|score", broken), broken
        return
    assert len(broken) == len(right)  # an unwritten row is whatever lay in memory: 0.0, 1e-7, or not finite
    assert any(not abs(score - truth) <= 0.1 for score, truth in zip(broken, right, strict=True)), broken


@pytest.mark.parametrize("name", REFUSES)
def test_what_does_not_run_is_as_documented(found: Found, name: str) -> None:
    """A build that runs one more of them belongs into the table; where the machine decides, the scores are equal."""
    output = found.outputs[name]
    if name == AMX and isinstance(output, list):
        assert output == found.own[name]
        return
    assert isinstance(output, str) and REFUSES[name] in output


def test_a_server_gives_the_engines_scores(found: Found, tmp_path: Path) -> None:
    """What holds of the engine holds of `/score`."""
    name = "llmcompressor/int4_asymmetric_llama_tied"
    output = found.folders[name]
    assert scores(output, output / "score_template.jinja", tmp_path / "log") == found.outputs[name]
