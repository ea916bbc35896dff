"""Quantised rerankers pass through: the backbone bit for bit, the row exact, config.json with the needed entry alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import jaxconv
from tests.foreign.quantised.cases import Case, readable
from tests.support.quantised import OPTIONS, TOKENS, quantised_source, stored_bytes, tokenizer

DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F8_E4M3": ml_dtypes.float8_e4m3fn}
# What a classifier's config.json has and a causal LM's has not, or has otherwise.
CLASSIFIER = {
    "architectures", "id2label", "label2id", "use_sep_token", "use_pad_token", "dtype", "torch_dtype",
    "sentence_transformers", "pad_token_id",
}  # fmt: skip


def values(stored: tuple[str, tuple[int, ...], bytes]) -> np.ndarray[Any, Any]:
    """The numbers of a tensor as float32."""
    dtype, shape, data = stored
    return np.frombuffer(data, DTYPES[dtype]).reshape(shape).astype(np.float32)


def expected_row(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> np.ndarray[Any, Any]:
    """Row of "yes" minus row of "no" in float32."""
    no, yes = tokenizer().convert_tokens_to_ids(TOKENS)
    head = values(tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]))
    if "lm_head.weight_scale" in tensors:
        head = head * values(tensors["lm_head.weight_scale"])
    return head[yes] - head[no]


@pytest.mark.parametrize("name", readable())
def test_backbone_row_and_config(tmp_path: Path, name: str) -> None:
    """Every tensor but the head's has the same name, dtype, shape and bytes; of the config the lists alone grow."""
    case = quantised_source(name, tmp_path)
    result = jaxconv.convert(case.folder, tmp_path / "out", **OPTIONS)
    before, after = stored_bytes(case.folder), stored_bytes(tmp_path / "out")
    score = after.pop("score.weight")
    assert after == {name: stored for name, stored in before.items() if not name.startswith("lm_head.")}
    assert score[:2] == ("F32", (1, 128)) and score[2] == expected_row(before).tobytes()
    check_files(case, tmp_path / "out")
    assert result.plan.model.packed is not None
    assert case.open().quantisation.summary in (tmp_path / "out" / "README.md").read_text()


def check_files(case: Case, output: Path) -> None:
    """config.json and companions are the source's but for the edits, and the dtype is that of the source's activations."""
    edits = case.open().edits
    config = json.loads((output / "config.json").read_text())
    expected = edits.get("config.json", case.config)
    assert {key: value for key, value in config.items() if key not in CLASSIFIER} == {
        key: value for key, value in expected.items() if key not in CLASSIFIER
    }
    assert config["dtype"] == config["torch_dtype"] == case.config["dtype"] == "bfloat16"
    for file, content in case.source.companions.items():
        assert json.loads((output / file).read_text()) == edits.get(file, content)
        if file not in edits:
            assert (output / file).read_bytes() == (case.folder / file).read_bytes()


def test_fixtures_are_many_and_of_all_kinds() -> None:
    """Families, methods, tied and untied, one file and shards."""
    names = readable()
    assert len(names) >= 18
    assert len({name.split("/")[0] for name in names}) == 5
    for kind in ("llama", "qwen2", "qwen3", "gemma", "tied", "shards"):
        assert any(kind in name.split("/")[1].split("_") for name in names), kind
    assert any("tied" not in name for name in names) and any("shards" not in name for name in names)


@pytest.mark.parametrize("name", [name for name in readable() if "tied" in name and "shards" in name])
def test_tied_sources_are_linked_whole(tmp_path: Path, name: str) -> None:
    """No file of the backbone is written anew: the output has the source's files, and one with the score."""
    case = quantised_source(name, tmp_path)
    result = jaxconv.convert(case.folder, tmp_path / "out", copy_mode="link", **OPTIONS)
    files = dict(result.files)
    assert files.pop("model-score.safetensors") == "write" and set(files.values()) == {"link"}
    assert all((tmp_path / "out" / file).samefile(case.folder / file) for file in files)


@pytest.mark.parametrize("name", ["torchao/int8_weights_qwen3", "torchao/int8_by_name_llama"])
def test_metadata_of_a_rewritten_file_is_kept(tmp_path: Path, name: str) -> None:
    """torchao's readers take the kind of each tensor from the metadata of the file."""
    from jaxconv.readers import open_checkpoint

    case = quantised_source(name, tmp_path)
    jaxconv.convert(case.folder, tmp_path / "out", **OPTIONS)
    before, after = case.checkpoint.metadata, open_checkpoint(tmp_path / "out").metadata
    names = json.loads(before["tensor_names"])
    score = {"score.weight": '{"_type": "Tensor"}', "tensor_names": json.dumps([*names, "score.weight"])}
    assert len(before) > 5 and after == {**before, "format": "pt", **score}


@pytest.mark.parametrize("copy_mode", ["copy", "link"])
@pytest.mark.parametrize("name", [name for name in readable() if name.startswith("torchao/")])
def test_torchao_reads_every_tensor_of_every_file(tmp_path: Path, name: str, copy_mode: str) -> None:
    """torchao's own reader, as vLLM calls it file by file: what a file does not list is left out without an error."""
    from safetensors import safe_open
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    case = quantised_source(name, tmp_path)
    jaxconv.convert(case.folder, tmp_path / "out", copy_mode=copy_mode, **OPTIONS)
    read: set[str] = set()
    leftover: dict[str, Any] = {}
    for path in sorted((tmp_path / "out").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()} | leftover
            found, leftover = unflatten_tensor_state_dict(tensors, file.metadata())
        read |= found.keys()
    assert read == case.parameters.keys() | {"score.weight"} and not leftover


def test_head_in_8_bits_is_recorded(tmp_path: Path) -> None:
    """The provenance and the card say that the rows were dequantised; its scales are not in the output."""
    case = quantised_source("fp8/static_head_qwen3", tmp_path)
    jaxconv.convert(case.folder, tmp_path / "out", **OPTIONS)
    record = json.loads((tmp_path / "out" / "jaxconv.json").read_text())
    assert record["quantisation"]["head"] == (
        "lm_head.weight is F8_E4M3: rows are dequantised with lm_head.weight_scale in float32"
    )
    assert "rows are dequantised" in (tmp_path / "out" / "README.md").read_text()
    assert {name for name in stored_bytes(case.folder) if name.startswith("lm_head.")} >= {"lm_head.weight_scale"}


def test_readers_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Summary, card and provenance say who reads the output, and who reads it wrongly."""
    from jaxconv.cli import main

    case = quantised_source("modelopt/fp8_llama", tmp_path)
    tokens = json.dumps(TOKENS)
    assert main(["convert", str(case.folder), str(tmp_path / "out"), "--classifier-from-tokens", tokens]) == 0
    printed, card = capsys.readouterr().out, (tmp_path / "out" / "README.md").read_text()
    for text in (printed, card):
        assert "vLLM reads it" in text and "transformers gives wrong scores" in text
        assert "--quantization-config" not in text
    assert "AutoModelForSequenceClassification" not in card
    readers = json.loads((tmp_path / "out" / "jaxconv.json").read_text())["quantisation"]["readers"]
    assert [(name, entry["reads"]) for name, entry in readers.items()] == [
        ("vllm", True), ("transformers", False), ("sentence-transformers", False)
    ]  # fmt: skip


def test_float32_is_served_where_vllm_takes_it(tmp_path: Path) -> None:
    """`--dtype float32` is in the command for compressed-tensors, and not for fp8, which vLLM would refuse."""
    for name, served in (("llmcompressor/int8_qwen3", True), ("fp8/block_list_llama", False)):
        case = quantised_source(name, tmp_path / name)
        (case.folder / "config.json").write_text(json.dumps({**case.config, "dtype": "float32"}))
        jaxconv.convert(case.folder, tmp_path / name / "out", **OPTIONS)
        card = (tmp_path / name / "out" / "README.md").read_text()
        assert ("--dtype float32" in card) is served
        assert json.loads((tmp_path / name / "out" / "config.json").read_text())["dtype"] == "float32"


def test_derivative_of_a_known_reranker_finds_its_preset(tmp_path: Path) -> None:
    """The base_model of the card names the reranker; an unknown one, or several, name nothing."""
    case = quantised_source("llmcompressor/int8_qwen3", tmp_path)
    card = case.folder / "README.md"
    for base, preset in (("Qwen/Qwen3-Reranker-0.6B", "qwen3-reranker"), ("somebody/else", None), (["a/b", "c/d"], None)):
        card.write_text(f"---\nbase_model: {json.dumps(base)}\n---\n")
        [refusal] = jaxconv.inspect(case.folder)["refusals"]
        # The fixture's tokenizer is not the reranker's, so that the preset that was found is refused.
        expected = "no preset knows this source" if preset is None else f"preset {preset} expects"
        assert expected in refusal
