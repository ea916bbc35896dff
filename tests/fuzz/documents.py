"""Targets of JSON files and of the other documents beside the weights, each by the narrowest function that reads it."""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path

from jaxconv import adapter, scoring, upload
from jaxconv.bundle.card import _yaml, code_span
from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import JaxconvError
from jaxconv.families import family_for, tie_word_embeddings
from jaxconv.json_files import read_object
from jaxconv.models.config import decoder_config
from jaxconv.pairs import parse_rows
from jaxconv.presets import detect, recorded_prompt
from jaxconv.quantisation.reading import check_packed, quantisation_of
from jaxconv.readers import _directories, easydel, open_checkpoint
from jaxconv.shard_index import check_index, read_weight_map
from jaxconv.sources import Source
from jaxconv.sources.card import read_base_model, read_licence
from jaxconv.text.chat_templates import displaced_templates
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.text.tokenizer_settings import SETTINGS, read_settings
from jaxconv.verification import adapter as verified_adapter
from jaxconv.verification import claims, output
from jaxconv.verification.claimed_prompt import _of_source
from jaxconv.writer import stage, sweep
from tests.fuzz.json_values import damaged_json
from tests.fuzz.target import Target, damaged_bytes

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")


def read_config(folder: Path, damaged: Path) -> None:
    """The family, its tensors, and the decoder of a config.json."""
    config = read_object(damaged, "the model's configuration")
    with contextlib.suppress(JaxconvError):  # it runs fewer families than there are
        decoder_config(config)
    family = family_for(config)
    family.parameters(config)
    family.transform(config)
    tie_word_embeddings(family, config)


def read_index(folder: Path, damaged: Path) -> None:
    """The index of shards, held against one shard's names."""
    weight_map = read_weight_map(damaged)
    check_index(damaged, weight_map, {"model.norm.weight": "a.safetensors", "model.embed_tokens.weight": "b.safetensors"})


def read_tokenizer_settings(folder: Path, damaged: Path) -> None:
    """The special tokens and templates of tokenizer_config.json and special_tokens_map.json."""
    for byte_level in (False, True):
        read_settings(damaged.parent, byte_level)
    displaced_templates({SETTINGS: (damaged.parent / SETTINGS).read_bytes()})


def read_adapter(folder: Path, damaged: Path) -> None:
    """The settings of a LoRA, by the conversion and by `verify`, and what is said of a directory that holds only that."""
    _directories.explain(folder)
    config = adapter._config(damaged)
    for module in MODULES:
        adapter._scaling(config, module, 4)
        verified_adapter._scaling(module, 4, config)


def read_record_of_sentence_transformers(folder: Path, damaged: Path) -> None:
    """The answers and the prompt that a LogitScore records."""
    source, vocabulary = Source("fuzz", folder, folder), _vocabulary(folder)
    _of_source(source)
    recorded_prompt._system_message(source)
    recorded_prompt.recorded_prompt(source, {}, {})
    detect.recorded(source, vocabulary)


@cache
def _vocabulary(folder: Path) -> Vocabulary:
    return Vocabulary(folder)


@cache
def _tensors(folder: Path) -> Checkpoint:
    return open_checkpoint(folder)


def read_quantisation(folder: Path, damaged: Path) -> None:
    """The quantization_config and its companions, against the tensors that they speak of."""
    checkpoint = _tensors(damaged.parent)
    config = read_object(damaged.parent / "config.json", "the model's configuration")
    quantised = quantisation_of(config, checkpoint, damaged.parent)
    if quantised is not None:
        check_packed(checkpoint, quantised, family_for(config).spelled_as(checkpoint.tensors), config)


def read_arrays(folder: Path, damaged: Path) -> None:
    """EasyDeL's index."""
    for prefix, path in easydel._entries(damaged):
        easydel._keys(prefix, path)


def read_pair(folder: Path, damaged: Path) -> None:
    """Lines of pairs to score."""
    list(parse_rows(damaged.read_bytes().splitlines(keepends=True), "fuzz"))


def read_output(folder: Path, damaged: Path) -> None:
    """An output as `verify`, `push` and `score` take it."""
    found = output.read_output(folder)
    scoring._max_length(folder, found.config)
    upload._record(folder)
    record = found.record or {}
    claims._expected(record, (5, 6), "from_2_way_softmax", None, [])
    claims._recorded_ids(record, _vocabulary(folder), [])


def read_stage(folder: Path, damaged: Path) -> None:
    """What a killed conversion leaves for the sweep, which takes whatever it finds."""
    stage._read_names(damaged)
    handle = os.open(damaged, os.O_RDONLY)
    try:
        sweep._read_owner(handle, folder)
    finally:
        os.close(handle)


def read_card(folder: Path, damaged: Path) -> None:
    """The header of a model card, and the one that is written from it, which has the same keys."""
    import yaml

    read_base_model(folder)
    licence = read_licence(folder)
    written = _yaml(licence)
    if dict(licence) != (yaml.safe_load(written) or {}) or any(line == "---" for line in written.splitlines()):
        raise AssertionError(f"{dict(licence)} was written as {written}")
    code_span(damaged.read_bytes().decode("utf-8", "replace"))


JSON = ("**/*.json",)
DOCUMENTS: dict[str, Target] = {
    "config.json": Target("configs", read_config, 90, JSON, damaged_json),
    "shard index": Target("indices", read_index, 50, JSON, damaged_json),
    "tokenizer settings": Target("tokenizer_settings", read_tokenizer_settings, 80, JSON, damaged_json),
    "adapter_config.json": Target("adapter", read_adapter, 40, JSON, damaged_json),
    "sentence-transformers": Target(
        "sentence_transformers",
        read_record_of_sentence_transformers,
        40,
        ("*s.json", "*t_config.json", "1_*/*"),
        damaged_json,
    ),
    "quantisation": Target("quantised", read_quantisation, 8, JSON, damaged_json),
    "EasyDeL index": Target("easydel", read_arrays, 25, ("tensorstore_index.json",), damaged_json),
    "pairs": Target("pairs", read_pair, 30, damage=damaged_bytes),
    "output": Target("output", read_output, 20, JSON, damaged_json),
    "staged records": Target("stage", read_stage, 10, damage=damaged_json),
    "model card": Target("card", read_card, 4),
}
