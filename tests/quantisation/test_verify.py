"""`verify` and `score` on quantised outputs: what is right passes, and each thing that could be wrong is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import jaxconv
from jaxconv.verification.quantisation import expected_config
from tests.foreign.quantised.cases import readable, unpack
from tests.support.answering import answering
from tests.support.quantised import OPTIONS, PAIRS, TOKENS, quantised_source

# One of each way of storing weights, tied and untied, one file and shards, four families.
SAMPLE = [
    "fp8/block_qwen3_tied_shards",
    "fp8/static_head_qwen3",
    "gptqmodel/awq_qwen2_tied",
    "gptqmodel/gptq_activation_order_qwen3_tied",
    "llmcompressor/int4_group_qwen3_shards",
    "llmcompressor/int8_gemma_tied_shards",
    "llmcompressor/nvfp4_weights_gemma",
    "modelopt/mixed_fp8_nvfp4_llama",
    "torchao/int8_llama_tied_shards",
]


def converted(name: str, folder: Path) -> tuple[Path, Path]:
    """A fixture and its conversion."""
    source = quantised_source(name, folder).folder
    jaxconv.convert(source, folder / "out", **OPTIONS)
    return source, folder / "out"


@pytest.mark.parametrize("name", SAMPLE)
def test_a_conversion_is_proved(tmp_path: Path, name: str) -> None:
    """Tensors, head, files and scores; the notes say who made numbers of the packed weights."""
    source, output = converted(name, tmp_path)
    report = jaxconv.verify(source, output, pairs=PAIRS, classifier_from_tokens=TOKENS)
    assert report.passed, report.findings
    assert report.structure.identical == report.structure.tensors > 10 and report.head.exact
    assert report.scores is not None and report.scores.max_abs_error <= 1e-5
    said = "its own quantizer" if report.scores.quantizer else "were dequantised by jaxconv"
    assert any(said in note for note in report.notes)
    assert report.scores.quantizer or report.scores.kind == "independent"


@pytest.mark.parametrize("name", SAMPLE)
def test_jax_and_torch_give_the_same_scores(tmp_path: Path, name: str) -> None:
    """Weights are dequantised as they are loaded, in both frameworks; bfloat16 is near."""
    _, output = converted(name, tmp_path)
    jax, torch = (jaxconv.load(output, backend=backend, device="cpu") for backend in ("jax", "torch"))
    scores = [scorer.score_pairs(PAIRS, raw=True) for scorer in (jax, torch)]
    assert max(abs(x - y) for x, y in zip(*scores, strict=True)) <= 1e-5
    assert max(scores[0]) - min(scores[0]) > 0.1  # other texts, other scores
    rounded = jaxconv.load(output, backend="jax", device="cpu", dtype="bfloat16").score_pairs(PAIRS, raw=True)
    assert max(abs(x - y) for x, y in zip(scores[0], rounded, strict=True)) < 0.3


@pytest.mark.parametrize("name", readable())
def test_the_needed_entry_is_worked_out_twice(tmp_path: Path, name: str) -> None:
    """The proof's own rules give the config that the conversion writes."""
    case = unpack(name, tmp_path)
    assert expected_config(case.config) == case.open().edits.get("config.json", case.config)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("llmcompressor/int8_qwen3", "config.json"),
        ("llmcompressor/fp8_block_qwen2_tied", "config.json"),
        ("llmcompressor/int4_channel_gemma", "config.json"),
        ("fp8/block_list_llama", "config.json"),
        ("fp8/static_llama", "config.json"),
        ("modelopt/fp8_llama", "config.json"),
        ("modelopt/fp8_llama", "hf_quant_config.json"),
        ("torchao/int8_weights_qwen3", "config.json"),
    ],
)
def test_a_missing_entry_is_found(tmp_path: Path, name: str, file: str) -> None:
    """Each edit removed once: the list as the source has it is a finding."""
    source, output = converted(name, tmp_path)
    before, path = json.loads((source / file).read_text()), output / file
    now = json.loads(path.read_text())
    path.write_text(
        json.dumps(before if file != "config.json" else {**now, "quantization_config": before["quantization_config"]})
    )
    report = jaxconv.verify(source, output, structure_only=True)
    assert not report.passed
    assert any(("quantization_config" if file == "config.json" else file) in finding for finding in report.findings)
    if file == "config.json":  # the list itself, not the whole section
        assert any("; expected quantization_config." in finding and "score" in finding for finding in report.findings)


NAMES, MISSING = 'model.norm.weight\\", \\"lm_head.weight', "does not list and describe score.weight"


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        (f'{NAMES}\\", \\"score.weight', NAMES, MISSING),
        ('"score.weight":"{', '"other.weight":"{', MISSING),
        ('\\"block_size\\": [1, 128]', '\\"block_size\\": [1, 64] ', "the source's is another"),
    ],
)
def test_a_tensor_that_is_not_described_is_found(tmp_path: Path, old: str, new: str, finding: str) -> None:
    """vLLM skips what torchao's metadata does not list: the row would be whatever lay in memory."""
    source, output = converted("torchao/int8_weights_qwen3", tmp_path)
    path = output / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].decode()
    assert old in header, header
    header = header.replace(old, new)
    path.write_bytes(len(header.encode()).to_bytes(8, "little") + header.encode() + raw[8 + length :])
    findings = jaxconv.verify(source, output, structure_only=True).findings
    assert any(finding in text for text in findings), findings


def test_an_entry_that_must_not_be_there_is_found(tmp_path: Path) -> None:
    """One name in an empty list of AWQ ends vLLM's derivation from the stored dtypes."""
    source, output = converted("gptqmodel/awq_qwen3", tmp_path)
    config = json.loads((output / "config.json").read_text())
    assert not config["quantization_config"].get("modules_to_not_convert")
    config["quantization_config"]["modules_to_not_convert"] = ["score"]
    (output / "config.json").write_text(json.dumps(config))
    assert any("quantization_config" in finding for finding in jaxconv.verify(source, output, structure_only=True).findings)


def served_by(output: Path, change: Callable[[float], float]) -> AbstractContextManager[tuple[str, list[dict[str, Any]]]]:
    """A server of the output whose scores are the local ones, changed."""
    local = jaxconv.load(output, backend="torch", device="cpu").score_pairs(PAIRS, raw=True)
    models = {"data": [{"id": "model", "root": str(output), "parent": None, "max_model_len": 512}]}
    scores = {"data": [{"index": index, "score": change(score)} for index, score in enumerate(local)]}
    return answering(models, lambda body: scores)


# epsilon x sqrt(8 x layers) of the dtype; sqrt(4 x layers) of codes; all have one layer
@pytest.mark.parametrize(
    ("name", "dtype", "share"),
    [
        ("llmcompressor/int4_channel_gemma", None, 2**-7 * 8**0.5),
        ("llmcompressor/int4_channel_gemma", "bfloat16", 2**-7 * 8**0.5),
        ("llmcompressor/int4_channel_gemma", "float16", 2**-10 * 8**0.5),
        ("llmcompressor/int8_qwen3", "float32", 2**-6 * 2),
        ("gptqmodel/gptq_qwen3", None, 2**-7 * 8**0.5),
        ("modelopt/fp8_llama", None, 0.25),
        ("modelopt/nvfp4_weights_llama_tied", None, 2**-7 * 8**0.5),
        ("fp8/block_list_llama", None, 0.25),
        ("torchao/int8_llama_tied_shards", None, 2**-6 * 2),
        ("torchao/int8_weights_qwen3", None, 2**-7 * 8**0.5),
    ],
)
def test_a_server_is_held_to_its_dtype(tmp_path: Path, name: str, dtype: str | None, share: float) -> None:
    """The tolerance follows from what the server rounds, and the report says what dtype that is and who says so."""
    source, output = converted(name, tmp_path)
    largest = max(1.0, *map(abs, jaxconv.load(output, backend="torch", device="cpu").score_pairs(PAIRS, raw=True)))
    for off, passes in ((0.2, True), (1.8, False)):
        with served_by(output, lambda score, off=off: score + off * share * largest) as (url, _):  # type: ignore[misc]
            report = jaxconv.verify(
                source, output, pairs=PAIRS, backend="torch", against_vllm=url, server_dtype=dtype
            )  # fmt: skip
        assert report.vllm is not None and report.vllm.tolerance == pytest.approx(share * largest, rel=0.02)
        assert report.vllm.dtype == (dtype or "bfloat16")
        assert ("--server-dtype)" if dtype else "the dtype of config.json") in report.vllm.tolerance_reason
        assert report.passed is passes, report.findings


def test_a_spoiled_row_is_found_at_float32(tmp_path: Path) -> None:
    """A row that is off by a thousandth, as one rounded to bfloat16 is: a share of the largest score would let it pass."""
    source, output = converted("llmcompressor/int4_channel_gemma", tmp_path)
    with served_by(output, lambda score: score * 1.001) as (url, _):
        half = jaxconv.verify(source, output, pairs=PAIRS, backend="torch", against_vllm=url)
        full = jaxconv.verify(source, output, pairs=PAIRS, backend="torch", against_vllm=url, server_dtype="float32")
    assert half.passed and half.vllm is not None and half.vllm.max_abs_error > 1e-3
    assert full.vllm is not None and full.vllm.tolerance == 1e-4 and "float32 (--server-dtype)" in full.vllm.tolerance_reason
    assert any("vLLM's raw scores differ" in finding for finding in full.findings)


def flip(path: Path, name: str) -> None:
    """Changes one bit in the middle of a tensor."""
    with safe_open(path, "np") as file:
        assert name in file.keys()
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    begin, end = json.loads(raw[8 : 8 + length])[name]["data_offsets"]
    raw[8 + length + (begin + end) // 2] ^= 1
    path.write_bytes(bytes(raw))


UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("llmcompressor/int4_asymmetric_llama_tied", f"{UP}.weight_packed"),
        ("llmcompressor/int4_asymmetric_llama_tied", f"{UP}.weight_scale"),
        ("llmcompressor/int4_asymmetric_llama_tied", f"{UP}.weight_zero_point"),
        ("gptqmodel/gptq_qwen3", f"{UP}.g_idx"),
        ("modelopt/nvfp4_qwen3", f"{UP}.weight_scale_2"),
        ("fp8/static_llama", f"{UP}.input_scale"),
        ("fp8/static_head_qwen3", "score.weight"),
    ],
)
def test_one_bit_is_found(tmp_path: Path, name: str, tensor: str) -> None:
    """In packed words, scales, zero points, the order of a group, scales of activations, and the row."""
    source, output = converted(name, tmp_path)
    assert jaxconv.verify(source, output, structure_only=True).passed
    flip(output / "model.safetensors", tensor)
    findings = jaxconv.verify(source, output, structure_only=True).findings
    assert findings and all(tensor in finding for finding in findings), findings


def config_with(**changes: Any) -> Callable[[Path], None]:
    """A change of config.json of the output."""

    def damage(output: Path) -> None:
        path = output / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (config_with(dtype="int8"), "the source's activations are bfloat16"),
        (config_with(torch_dtype="float32"), "the source's activations are bfloat16"),
        (config_with(quantization_config=None), "quantization_config"),
        (lambda output: (output / "hf_quant_config.json").unlink(), "hf_quant_config.json is in the source alone"),
    ],
)
def test_damaged_files_are_found(tmp_path: Path, damage: Callable[[Path], None], finding: str) -> None:
    """The dtype of the activations, the configuration itself, and its companion."""
    source, output = converted("modelopt/fp8_llama", tmp_path)
    damage(output)
    findings = jaxconv.verify(source, output, structure_only=True).findings
    assert any(finding in text for text in findings), findings


@pytest.mark.parametrize(
    "name", [name for name in readable() if name.startswith("llmcompressor/") and "nvfp4" not in name and "asymm" not in name]
)
def test_transformers_agrees_with_itself_compressed_tensors(tmp_path: Path, name: str) -> None:
    """The classifier of the output against the causal LM of the source, each with transformers' own quantizer."""
    check_with_quantizer(name, tmp_path)


@pytest.mark.parametrize("name", [name for name in readable() if name.startswith("torchao/int8")])
def test_transformers_agrees_with_itself_torchao(tmp_path: Path, name: str) -> None:
    """As above, with torchao's tensors."""
    check_with_quantizer(name, tmp_path)


@pytest.mark.parametrize("name", [name for name in readable() if name.startswith("fp8/block") and "partial" not in name])
def test_transformers_agrees_with_itself_fp8_blocks(tmp_path: Path, name: str) -> None:
    """As above; on a CPU transformers dequantises fp8 blocks as it loads them."""
    check_with_quantizer(name, tmp_path)


def check_with_quantizer(name: str, folder: Path) -> None:
    """Scores of both sides by transformers' quantizer agree to 1e-5; without the entry they do not, or it does not load."""
    source, output = converted(name, folder)
    report = jaxconv.verify(source, output, pairs=PAIRS)
    assert report.passed, report.findings
    assert report.scores is not None and report.scores.quantizer, report.notes
    assert report.scores.max_abs_error <= 1e-5


@pytest.mark.parametrize("name", ["llmcompressor/int8_qwen3", "llmcompressor/int4_channel_gemma"])
def test_transformers_needs_the_entry(tmp_path: Path, name: str) -> None:
    """Without `score` in the list transformers does not load the output: the comparison above can fail."""
    source, output = converted(name, tmp_path)
    shutil.copytree(output, tmp_path / "broken")
    before = json.loads((source / "config.json").read_text())["quantization_config"]
    config_with(quantization_config=before)(tmp_path / "broken")
    report = jaxconv.verify(source, tmp_path / "broken", pairs=PAIRS)
    assert not report.passed
    assert any("transformers could not read" in note for note in report.notes), report
