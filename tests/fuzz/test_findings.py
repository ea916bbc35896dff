"""Every fault that the fuzzing has found, as a test of its own."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tensorstore
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from jaxconv.adapter import _scaling
from jaxconv.errors import SourceError
from jaxconv.families import family_for
from jaxconv.models.config import decoder_config
from jaxconv.readers import torch_bin
from jaxconv.readers._tensorstore import open_tensors
from jaxconv.text.chat_templates import displaced_templates
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.text.tokenizer_settings import SETTINGS
from jaxconv.verification.claims import _expected
from jaxconv.verification.output import read_output
from jaxconv.writer import stage, sweep
from tests.fuzz.seeds import SEEDS
from tests.support.tiny import FAMILIES, SIZES

HUGE = 10**400  # JSON has whole numbers that no float holds


def test_a_zip_directory_that_contradicts_itself(tmp_path: Path) -> None:
    """zipfile raises of an archive said to span several disks; the reader says that it is none."""
    SEEDS["torch_bin"](tmp_path)
    path = tmp_path / "pytorch_model.bin"
    raw = bytearray(path.read_bytes())
    place = raw.rindex(b"PK\x06\x07")  # the locator of the zip64 directory; its last number counts disks
    raw[place + 16] = 9
    path.write_bytes(raw)
    with pytest.raises(SourceError, match="not a zip archive"):
        torch_bin.open(tmp_path)


def test_a_pickle_that_names_a_class_at_length(tmp_path: Path) -> None:
    """torch searches its message about 500,000 characters of a class's name for minutes."""
    SEEDS["torch_bin"](tmp_path)
    path = tmp_path / "pytorch_model.bin"
    written = io.BytesIO()
    with zipfile.ZipFile(path) as good, zipfile.ZipFile(written, "w") as archive:
        for entry in good.infolist():
            content = good.read(entry)
            archive.writestr(entry, content.replace(b"_rebuild", b"_" + b"x" * 500_000))
    path.write_bytes(written.getvalue())
    started = time.monotonic()
    with pytest.raises(SourceError, match="names a class by 500"):
        torch_bin.open(tmp_path)
    assert time.monotonic() - started < 5


def test_a_pickle_with_sound_classes_opens(tmp_path: Path) -> None:
    """The check of names lets through what torch writes."""
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert torch_bin.open(tmp_path).tensors["a"].read().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("model_type", "change"),
    [
        ("gemma", {"rope_parameters": {"partial_rotary_factor": []}}),
        ("gemma", {"rope_parameters": {"partial_rotary_factor": float("nan")}}),
        ("gemma", {"rope_parameters": {"rope_type": "linear", "factor": "x"}}),
        ("gemma2", {"rope_parameters": {"rope_theta": "x"}}),
        ("gemma2", {"layer_types": True}),
        ("gemma2", {"layer_types": ["full_attention", 1.5]}),
        ("gemma3_text", {"sliding_window": "../../x"}),
        ("gemma3_text", {"query_pre_attn_scalar": "x"}),
        ("gemma3_text", {"query_pre_attn_scalar": None}),
        ("gemma3_text", {"rope_parameters": {"full_attention": []}}),
        ("llama", {"rms_norm_eps": HUGE}),
        ("llama", {"num_hidden_layers": 2**40}),
        ("llama", {"rope_theta": None, "rope_parameters": None}),
        ("phi3", {"sliding_window": float("inf")}),
        ("phi3", {"head_dim": -1}),
        ("phi3", {"partial_rotary_factor": {}}),
        ("phi3", {"partial_rotary_factor": 1e308}),
        ("qwen2", {"num_attention_heads": 4096}),
        ("qwen3", {"rope_parameters": True}),
        ("qwen3_moe", {"decoder_sparse_step": []}),
        ("qwen3_moe", {"decoder_sparse_step": None}),
        ("qwen3_moe", {"mlp_only_layers": 1}),
    ],
)
def test_a_decoder_of_odd_numbers(model_type: str, change: dict[str, Any]) -> None:
    """`score` says which value of a config.json it cannot compute with."""
    config = {"model_type": model_type, **SIZES, **FAMILIES[model_type], "rms_norm_eps": 1e-6, "rope_theta": 1e4}
    decoder_config(config)
    with pytest.raises(
        SourceError, match=f"config.json has .*{next(iter(change)) if 'heads' not in str(change) else 'heads'}"
    ):
        decoder_config({**config, **change})


def test_an_explicit_null_of_a_rotary_factor_is_none() -> None:
    """null means that there is no such factor."""
    config = {"model_type": "phi3", **SIZES, **FAMILIES["phi3"], "rms_norm_eps": 1e-6}
    without = decoder_config(config)
    assert decoder_config({**config, "partial_rotary_factor": None}) == without


def test_numbers_that_no_float_holds() -> None:
    """Of a config.json, an adapter and a record."""
    cohere = {"model_type": "cohere", **SIZES, "logit_scale": HUGE}
    with pytest.raises(SourceError, match="logit_scale"):
        family_for(cohere).transform(cohere)
    with pytest.raises(SourceError, match="lora_alpha"):
        _scaling({"r": 4, "lora_alpha": HUGE}, "model.layers.0.mlp.down_proj", 4)
    with pytest.raises(SourceError, match="records the scale"):
        _expected({"calibration": {"scale": HUGE}}, (5, 6), "from_2_way_softmax", None, [])


def test_kinds_of_layers_that_are_no_words() -> None:
    """`layer_types` with an object in it."""
    config = {"model_type": "qwen3_5_text", **SIZES, **FAMILIES["qwen3_5_text"]}
    family = family_for(config)
    with pytest.raises(SourceError, match="layer_types"):
        family.parameters({**config, "layer_types": [{"a": 1}, "full_attention", "full_attention", "full_attention"]})


@pytest.mark.parametrize("stored", ["\ud800", {"default": "\ud800"}, {"\ud800": "x"}])
def test_a_template_of_half_a_character(stored: object) -> None:
    """JSON may hold half of a surrogate pair, a file cannot."""
    with pytest.raises(SourceError, match=r"chat_template in tokenizer_config\.json"):
        displaced_templates({SETTINGS: json.dumps({"chat_template": stored}).encode()})


def test_a_post_processor_that_adds_pieces_without_ids(tmp_path: Path) -> None:
    """It gives more pieces than ids, so that no place of the text is known."""
    made = Tokenizer(models.WordLevel({"<s>": 0, "yes": 1}, unk_token="<s>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    document = json.loads(made.to_str())
    named = {"id": "<s>", "ids": [], "tokens": ["<s>"]}
    pieces = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    document["post_processor"] = {
        "type": "TemplateProcessing", "single": pieces, "pair": pieces[1:], "special_tokens": {"<s>": named}
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(SourceError, match="gives 'yes' 1 ids and 2 pieces"):
        Vocabulary(tmp_path).tokenize("yes")


@pytest.mark.parametrize("metadata", [[], 5, "x", None])
def test_an_index_whose_metadata_is_no_object(tmp_path: Path, metadata: object) -> None:
    """`verify` reports it and goes on."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": metadata or None, "weight_map": {}}))
    found = read_output(tmp_path).findings
    assert any("total_size None" in finding for finding in found)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": [1], "weight_map": {}}))
    assert read_output(tmp_path).findings == found


def test_what_a_sweep_finds_in_a_stage(tmp_path: Path) -> None:
    """Records that another program wrote are none."""
    for names in ("5", "null", "{}", "[" * 100_000):
        (tmp_path / "names.json").write_text(names)
        assert stage._read_names(tmp_path / "names.json") == []
    for owner in ('{"output": "\\ud800"}', "[" * 60_000):
        (tmp_path / "owner.json").write_text(owner)
        handle = os.open(tmp_path / "owner.json", os.O_RDONLY)
        assert sweep._read_owner(handle, tmp_path / ".jaxconv-stage-1") == {}
        os.close(handle)


def test_an_array_without_dimensions(tmp_path: Path) -> None:
    """TensorStore has no shape of the chunks of a scalar."""
    store = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{tmp_path}/"}}
    made = tensorstore.open(store, create=True, dtype="float32", shape=[]).result()
    made.write(2.5).result()
    ref = open_tensors({"a": store}, "x")["a"]
    assert ref.shape == () and ref.read() == 2.5
