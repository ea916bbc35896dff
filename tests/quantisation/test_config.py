"""What keeps `score` plain is one entry, in the file and list that the readers of the method look at."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxconv.errors import SourceError
from jaxconv.families.parameter import Parameter
from jaxconv.quantisation import Source, all_schemes, companion_names, open_quantisation
from tests.foreign.quantised.cases import readable, unpack
from tests.support.refs import array_ref

IGNORE = ("config.json", ("quantization_config", "ignore"), ["lm_head"], ["lm_head", "score"])
EXCLUDED = ["lm_head", "model.embed_tokens"]
BOTH_OF_MODELOPT = [
    ("config.json", ("quantization_config", "ignore"), EXCLUDED, [*EXCLUDED, "score"]),
    ("hf_quant_config.json", ("quantization", "exclude_modules"), EXCLUDED, [*EXCLUDED, "score"]),
]
NEW_LIST = ("config.json", ("quantization_config", "modules_to_not_convert"), None, ["score"])
# What each library's checkpoints change; a case's own entry wins.
EDITS: dict[str, list[tuple[str, tuple[str, ...], Any, Any]]] = {
    "llmcompressor": [IGNORE],
    "modelopt": BOTH_OF_MODELOPT,
    "torchao": [NEW_LIST],
    "gptqmodel": [],
    "fp8": [NEW_LIST],
}
LEFT_OUT = ["lm_head", "model.layers.0.mlp.down_proj"]
LISTED = ["lm_head", "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.o_proj"]
ATTENTION = ["lm_head", "model.layers.0.self_attn*"]
OWN: dict[str, list[tuple[str, tuple[str, ...], Any, Any]]] = {
    "llmcompressor/mixed_fp8_int4_llama": [],
    "modelopt/mixed_fp8_nvfp4_llama": [],
    "fp8/block_list_llama": [(NEW_LIST[0], NEW_LIST[1], LEFT_OUT, [*LEFT_OUT, "score"])],
    "fp8/static_llama": [("config.json", ("quantization_config", "ignored_layers"), ["lm_head"], ["lm_head", "score"])],
    "fp8/static_head_qwen3": [("config.json", ("quantization_config", "ignored_layers"), [], ["score"])],
}


def differences(before: Any, after: Any, place: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any, Any]]:
    """Every place where two JSON values differ, down to lists."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [entry for key in keys for entry in differences(before.get(key), after.get(key), (*place, key))]
    return [] if before == after and type(before) is type(after) else [(place, before, after)]


@pytest.mark.parametrize("name", readable())
def test_only_the_needed_entry_changes(tmp_path: Path, name: str) -> None:
    """The difference to the source's files is the entry, in every library's checkpoint; a second time changes nothing."""
    case = unpack(name, tmp_path)
    before = {"config.json": case.config, **case.source.companions}
    kept = copy.deepcopy(before)
    edits = case.open().edits
    found = [(file, *change) for file, content in edits.items() for change in differences(before[file], content)]
    expected = OWN.get(name, EDITS[name.split("/")[0]])
    if name == "llmcompressor/int8_llama_two_layers_ignored":
        (file, place, old, new), *more = found
        assert more == [] and (file, place) == IGNORE[:2] and sorted(old) == sorted(LISTED) and new == [*old, "score"]
    elif name == "modelopt/nvfp4_feed_forward_gemma":
        assert [(old, new) for _, _, old, new in found] == [(ATTENTION, [*ATTENTION, "score"])] * 2
    else:
        assert found == expected
    assert before == kept
    again = open_quantisation(edits.get("config.json", before["config.json"]), Source(
        case.source.tensors, case.source.metadata, {file: edits.get(file, content) for file, content in before.items()}
    ))  # fmt: skip
    assert again is not None and again.edits == {}


@pytest.mark.parametrize("name", readable())
def test_score_is_plain_afterwards(tmp_path: Path, name: str) -> None:
    """A linear called `score` would be quantised before the edit, where the method decides by lists; never after it."""
    case = unpack(name, tmp_path)
    row = Parameter((1, 128), "linear")
    opened = case.open()
    if opened.method in ("compressed-tensors", "fp8", "modelopt"):
        mixed = "mixed" in name
        assert (opened.quantisation.storage("score.weight", row) is None) is mixed
    edits = opened.edits
    again = open_quantisation(edits.get("config.json", case.config), Source(
        {**case.source.tensors, "score.weight": array_ref("score.weight", np.zeros((1, 128), "float32"))},
        case.source.metadata,
        case.source.companions,
    ))  # fmt: skip
    assert again is not None and again.quantisation.storage("score.weight", row) is None


def fp8(**entries: Any) -> dict[str, Any]:
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], **entries}


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8"}


@pytest.mark.parametrize(
    ("config", "key", "before", "after"),
    [
        (fp8(ignored_layers=["a"], modules_to_not_convert=["a"]), "ignored_layers", ["a"], ["a", "score"]),
        (fp8(ignored_layers=["a"], modules_to_not_convert=["a"]), "modules_to_not_convert", ["a"], ["a", "score"]),
        (fp8(ignored_layers=None), "modules_to_not_convert", None, ["score"]),
        ({**AWQ, "modules_to_not_convert": ["visual"]}, "modules_to_not_convert", ["visual"], ["visual", "score"]),
        ({**MODELOPT, "exclude_modules": ["lm_head"]}, "exclude_modules", ["lm_head"], ["lm_head", "score"]),
        ({**MODELOPT, "exclude_modules": [], "ignore": ["a"]}, "exclude_modules", [], ["score"]),
        ({**MODELOPT, "exclude_modules": [], "ignore": ["a"]}, "ignore", ["a"], ["a", "score"]),
        (MODELOPT, "ignore", None, ["score"]),
    ],
)  # fmt: skip
def test_the_list_that_is_there_grows(config: dict[str, Any], key: str, before: Any, after: Any) -> None:
    """Both lists where both exist, since readers look at different ones first."""
    opened = open_quantisation({"quantization_config": config}, Source({}))
    assert opened is not None
    edited = opened.edits["config.json"]["quantization_config"]
    changes = differences(config, edited)
    assert ((key,), before, after) in changes
    assert all(new[-1] == "score" and new[:-1] == (old or []) for _, old, new in changes)
    assert list(edited)[: len(config)] == list(config)


@pytest.mark.parametrize("entries", [None, []])
def test_an_empty_list_of_awq_stays_empty(entries: Any) -> None:
    """vLLM derives what is plain from the stored dtypes only while the list is empty."""
    opened = open_quantisation({"quantization_config": {**AWQ, "modules_to_not_convert": entries}}, Source({}))
    assert opened is not None and opened.edits == {}


@pytest.mark.parametrize("place", [("quantization_config",), ("text_config", "quantization_config"), ("compression_config",)])
def test_the_config_is_edited_where_it_lies(place: tuple[str, ...]) -> None:
    """config.json itself, its text_config, and the older key of compressed-tensors."""
    inner: dict[str, Any] = fp8()
    config: dict[str, Any] = {"model_type": "x"}
    node = config
    for key in place[:-1]:
        node[key] = {"hidden_size": 8}
        node = node[key]
    node[place[-1]] = inner
    opened = open_quantisation(config, Source({}))
    assert opened is not None
    changes = differences(config, opened.edits["config.json"])
    assert changes == [((*place, "modules_to_not_convert"), None, ["score"])]


def test_a_companion_alone_is_read_and_edited() -> None:
    """modelopt's older files have no quantization_config; vLLM reads hf_quant_config.json by itself."""
    companion = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    opened = open_quantisation({"model_type": "llama"}, Source({}, {}, {"hf_quant_config.json": companion}))
    assert opened is not None and opened.method == "modelopt"
    assert list(opened.edits) == ["hf_quant_config.json"]
    assert differences(companion, opened.edits["hf_quant_config.json"]) == [
        (("quantization", "exclude_modules"), ["lm_head"], ["lm_head", "score"])
    ]


def test_nothing_is_said_of_a_plain_checkpoint() -> None:
    """No key, or an empty one."""
    for config in ({}, {"quantization_config": None}, {"quantization_config": {}}, {"text_config": {}}):
        assert open_quantisation(config, Source({})) is None


def test_layers_of_mixed_precision_are_found_in_the_companion(tmp_path: Path) -> None:
    """Older exports have quantized_layers only in hf_quant_config.json, and vLLM then reads that file."""
    case = unpack("modelopt/mixed_fp8_nvfp4_llama", tmp_path)
    config = case.config
    layers = config["quantization_config"].pop("quantized_layers")
    assert case.source.companions["hf_quant_config.json"]["quantization"]["quantized_layers"] == layers
    opened = open_quantisation(config, case.source)
    assert opened is not None and "NVFP4" in opened.quantisation.summary and "(FP8)" in opened.quantisation.summary
    with pytest.raises(SourceError, match=r"MIXED_PRECISION without quantized_layers.*hf_quant_config\.json"):
        open_quantisation(config, Source(case.source.tensors))


def test_every_scheme_has_a_method_of_its_own() -> None:
    """The directory is the registry; two schemes for one method would hide one of them."""
    schemes = all_schemes()
    assert [scheme.NAME for scheme in schemes] == ["awq", "compressed-tensors", "fp8", "gptq", "modelopt", "torchao"]
    methods = [method for scheme in schemes for method in scheme.METHODS]
    assert len(methods) == len(set(methods))
    assert companion_names() == {"hf_quant_config.json", "quantize_config.json", "quant_config.json"}


@pytest.mark.parametrize(
    ("name", "summary", "readers"),
    [
        ("llmcompressor/int8_qwen3", "compressed-tensors, int8 per channel (int-quantized)", (True, True, True)),
        ("llmcompressor/int4_asymmetric_llama_tied",
         "compressed-tensors, int4 in groups of 32, asymmetric (pack-quantized)", (True, True, True)),
        ("llmcompressor/mixed_fp8_int4_llama",
         "compressed-tensors, fp8 per channel (float-quantized); int4 in groups of 128 (pack-quantized)", (True, True, True)),
        ("fp8/block_qwen3_tied_shards", "fp8, in blocks of 128 x 128", (True, True, True)),
        ("fp8/block_partial_qwen2", "fp8, in blocks of 128 x 128", (True, False, False)),
        ("fp8/static_llama", "fp8, with one scale, static activations", (True, False, False)),
        ("modelopt/fp8_llama", "modelopt, fp8 with one scale (FP8)", (True, False, False)),
        ("modelopt/nvfp4_qwen3", "modelopt, fp4 in groups of 16 (NVFP4)", (True, False, False)),
        ("gptqmodel/gptq_qwen3", "gptq, int4 in groups of 32 (gptq)", (True, True, True)),
        ("gptqmodel/awq_qwen3", "awq, int4 in groups of 64 (gemm)", (True, True, True)),
        ("torchao/int8_weights_qwen3", "torchao, Int8WeightOnlyConfig", (True, True, True)),
    ],
)  # fmt: skip
def test_scheme_and_readers_are_named(tmp_path: Path, name: str, summary: str, readers: tuple[bool, ...]) -> None:
    """The summary that people see, and who gets right scores from the output; a reader that does not has a reason."""
    quantisation = unpack(name, tmp_path).open().quantisation
    assert quantisation.summary == summary
    assert tuple(consumer.reads for consumer in quantisation.consumers) == readers
    assert [consumer.name for consumer in quantisation.consumers] == ["vllm", "transformers", "sentence-transformers"]
    assert all(consumer.caveat for consumer in quantisation.consumers if not consumer.reads)


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("gptqmodel/gptq_activation_order_qwen3_tied", "desc_act"),
        ("gptqmodel/gptq_v2_asymmetric_qwen2", "sym is false"),
        ("llmcompressor/int8_asymmetric_qwen2", "int8 weights that are not symmetric"),
    ],
)
def test_what_vllm_refuses_is_a_warning(tmp_path: Path, name: str, warning: str) -> None:
    """The limits are the source's, and other readers have none."""
    warnings = unpack(name, tmp_path).open().quantisation.warnings
    assert len(warnings) == 1 and warning in warnings[0]


def test_the_tables_of_this_file_name_fixtures_that_exist() -> None:
    """A renamed fixture would otherwise lose its row without a word."""
    assert OWN.keys() <= set(readable())


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("model.layers.0.mlp.up_proj", "int8 in groups of 32 (gptq)"),
        ("model.layers.0.mlp.down_proj", None),
        ("model.layers.0.mlp.gate_proj", "int4 in groups of 64 (gptq)"),
        ("model.layers.1.mlp.up_proj", None),
    ],
)
def test_patterns_of_gptq_override_module_by_module(module: str, kind: str | None) -> None:
    """The first pattern that matches from the start counts, whatever the tensors are; `-:` leaves a module plain."""
    dynamic = {
        r"-:.*layers\.1\.": {},
        r"+:.*\.up_proj": {"bits": 8, "group_size": 32},
        r"-:.*\.down_proj": {},
        r"mlp": {"bits": 3},
    }
    config = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": True, "dynamic": dynamic}
    opened = open_quantisation({"quantization_config": config}, Source({}))
    assert opened is not None
    storage = opened.quantisation.storage(f"{module}.weight", Parameter((64, 128), "linear"))
    assert (storage.kind if storage else None) == kind


def test_modules_that_gptq_lists_are_the_quantised_ones() -> None:
    """Names in one list or in lists of a block's steps, as parts of the module's name."""
    for listed in (["self_attn.q_proj", "mlp.up_proj"], [["self_attn.q_proj"], ["mlp.up_proj"]]):
        config = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "modules_in_block_to_quantize": listed}
        opened = open_quantisation({"quantization_config": config}, Source({}))
        assert opened is not None
        for module, quantised in (("self_attn.q_proj", True), ("mlp.up_proj", True), ("mlp.down_proj", False)):
            name = f"model.layers.0.{module}.weight"
            assert (opened.quantisation.storage(name, Parameter((64, 128), "linear")) is not None) is quantised
