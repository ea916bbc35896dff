"""What cannot be served, read or believed is refused with the thing, what was found, what was expected, and a next step."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxconv.errors import JaxconvError, RefusedError, SourceError
from jaxconv.families.parameter import Parameter
from jaxconv.quantisation import Source, open_quantisation
from tests.foreign.quantised.cases import about, refused, unpack
from tests.support.refs import array_ref

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
GROUP = {"targets": ["Linear"], "weights": WEIGHTS, "format": "pack-quantized"}
CT: dict[str, Any] = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": GROUP}}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8"}
LINEAR = Parameter((64, 128), "linear")


def weights(**entries: Any) -> dict[str, Any]:
    return {**CT, "config_groups": {"group_0": {**GROUP, "weights": {**WEIGHTS, **entries}}}}


CONFIGS: list[tuple[str, Any, type[JaxconvError], str]] = [
    ("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_4bit": True}, RefusedError,
     r"quantised with bitsandbytes, which is not a method of vLLM any more.*model\.dequantize\(\)"),
    ("gguf", {"quant_method": "gguf"}, RefusedError, r"gguf.*llama\.cpp.*gguf_file="),
    ("mlx copy", {"group_size": 64, "bits": 4}, RefusedError, r"mlx.*packed embedding.*--dequantize"),
    ("unknown", {"quant_method": "hqq"}, RefusedError, r"'hqq' as quant_method.*expected one of: awq, compressed-tensors"),
    ("pattern", {**CT, "ignore": ["re:("], "config_groups": {"group_0": {**GROUP, "targets": ["re:("]}}}, SourceError,
     r"'re:\(', which is not a regular expression"),
    ("no method", {"activation_scheme": "dynamic"}, RefusedError, r"None as quant_method"),
    ("not an object", [1], SourceError, r"\[1\] as quantization_config; expected an object"),
    ("list", {**FP8, "modules_to_not_convert": "lm_head"}, SourceError, r"'lm_head' as modules_to_not_convert; expected a"),
    ("list of numbers", {**CT, "ignore": [1]}, SourceError, r"\[1\] as ignore; expected a list of module names"),
    ("lists", {**FP8, "ignored_layers": ["a"], "modules_to_not_convert": ["b"]}, SourceError,
     r"two lists that disagree.*a, b"),
    ("static blocks", {**FP8, "activation_scheme": "static"}, SourceError, r"weight_block_size with static activations"),
    ("e5m2", {**FP8, "fmt": "e5m2"}, SourceError, r"'e5m2' as fmt; expected e4m3"),
    ("block", {**FP8, "weight_block_size": 128}, SourceError, r"128 as weight_block_size; expected two whole numbers"),
    ("scheme", {**FP8, "activation_scheme": "x"}, SourceError, r"'x' as activation_scheme; expected one of: dynamic, static"),
    ("no groups", {**CT, "config_groups": {}}, SourceError, r"no config_groups"),
    ("no targets", {**CT, "config_groups": {"group_0": {"weights": WEIGHTS}}}, SourceError, r"group group_0 without targets"),
    ("sparsity", {**CT, "sparsity_config": {"format": "sparse-24-bitmask"}}, RefusedError, r"sparsity_config \(2:4"),
    ("rotations", {**CT, "transform_config": {"config_groups": {}}}, RefusedError, r"transform_config \(rotations"),
    ("format", {**CT, "config_groups": {"group_0": {**GROUP, "format": "marlin-24"}}}, SourceError, r"'marlin-24' as format"),
    ("bits", weights(num_bits=3), SourceError, r"int3 in groups of 128 \(pack-quantized\) in group_0, which this format"),
    ("strategy", weights(strategy="attn_head"), SourceError, r"'attn_head' as strategy; expected one of: tensor"),
    ("group size", weights(group_size=None), SourceError, r"None as group_size; expected a whole number"),
    ("gptq bits", {**GPTQ, "bits": 3}, RefusedError, r"3 bits; expected 4 or 8"),
    ("marlin", {**GPTQ, "checkpoint_format": "marlin"}, SourceError, r"'marlin' as checkpoint_format; expected one of: gptq"),
    ("old marlin", {**GPTQ, "is_marlin_format": True}, RefusedError, r"is_marlin_format"),
    ("gptq list", {**GPTQ, "modules_in_block_to_quantize": 3}, SourceError, r"3 as modules_in_block_to_quantize"),
    ("gemv", {**AWQ, "version": "gemv"}, RefusedError, r"'gemv' as version of awq; expected 'gemm'"),
    ("awq bits", {**AWQ, "bits": 8}, RefusedError, r"8 as bits of awq; expected 4"),
    ("awq symmetric", {**AWQ, "zero_point": False}, RefusedError, r"False as zero_point of awq"),
    ("algorithm", {**MODELOPT, "quant_algo": "W4A8_AWQ"}, RefusedError, r"'W4A8_AWQ' as quant_algo; expected one of: FP8"),
    ("no algorithm", {"quant_method": "modelopt"}, RefusedError, r"None as quant_algo"),
    ("mixed", {**MODELOPT, "quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "X"}}}, RefusedError,
     r"'X' as quant_algo of a"),
    ("torchao", {"quant_method": "torchao", "quant_type": {"default": {}}}, SourceError, r"no metadata of torchao"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "error", "message"), [row[1:] for row in CONFIGS], ids=[row[0] for row in CONFIGS])
def test_a_config_of_no_use_is_refused(config: Any, error: type[JaxconvError], message: str) -> None:
    """Each with the value that was found."""
    with pytest.raises(error, match=message) as caught:
        open_quantisation({"quantization_config": config}, Source({}))
    assert type(caught.value) is error


def test_mlx_is_known_by_its_own_key() -> None:
    """MLX writes `quantization` and, since 2025, a copy as quantization_config."""
    own = {"group_size": 64, "bits": 4}
    for config in ({"quantization": own}, {"quantization": own, "quantization_config": own}):
        with pytest.raises(RefusedError, match="mlx"):
            open_quantisation(config, Source({}))


@pytest.mark.parametrize("name", refused())
def test_a_refused_checkpoint_names_its_method(tmp_path: Path, name: str) -> None:
    """bitsandbytes of 4 and 8 bits, and an algorithm of modelopt that vLLM does not read, as the libraries wrote them."""
    case = unpack(name, tmp_path)
    with pytest.raises(RefusedError, match=about(name)["refused"]):
        open_quantisation(case.config, case.source)


def test_configs_in_two_places_must_agree() -> None:
    """The same object twice is fine."""
    both = {"quantization_config": FP8, "text_config": {"quantization_config": dict(FP8)}}
    assert open_quantisation(both, Source({})) is not None
    both["text_config"] = {"quantization_config": {**FP8, "weight_block_size": None}}
    with pytest.raises(SourceError, match=r"quantization_config and text_config\.quantization_config, and they differ"):
        open_quantisation(both, Source({}))


@pytest.mark.parametrize(
    ("config", "file", "content", "message"),
    [
        (
            MODELOPT,
            "hf_quant_config.json",
            {"quantization": {"quant_algo": "NVFP4"}},
            r"'NVFP4' as quantization\.quant_algo.*'FP8'",
        ),
        (GPTQ, "quantize_config.json", {"bits": 8, "group_size": 128}, r"8 as bits, config\.json has 4 as bits"),
        (GPTQ, "quantize_config.json", {"bits": 4, "group_size": 32}, r"32 as group_size"),
        (
            AWQ,
            "quant_config.json",
            {"w_bit": 4, "q_group_size": 64},
            r"64 as q_group_size, config\.json has 128 as group_size",
        ),
    ],
)
def test_companions_must_agree(config: dict[str, Any], file: str, content: Any, message: str) -> None:
    """A reader that looks at the other file would read other weights."""
    with pytest.raises(SourceError, match=rf"{file} has {message}"):
        open_quantisation({"quantization_config": config}, Source({}, {}, {file: content}))


def test_lists_of_companions_must_agree(tmp_path: Path) -> None:
    """A module that one file leaves out and the other does not."""
    case = unpack("modelopt/fp8_llama", tmp_path)
    companion = case.source.companions["hf_quant_config.json"]
    nested = {**companion["quantization"], "exclude_modules": ["lm_head", "model.layers.0.mlp*"]}  # type: ignore[dict-item]
    companions = {"hf_quant_config.json": {**companion, "quantization": nested}}
    with pytest.raises(SourceError, match=r"hf_quant_config\.json and config\.json leave out different modules.*mlp\*"):
        open_quantisation(case.config, Source(case.source.tensors, {}, companions))


@pytest.mark.parametrize("file", ["quantize_config.json", "quant_config.json"])
def test_a_companion_that_no_reader_finds_says_where_it_belongs(file: str) -> None:
    """The oldest GPTQ and AWQ files have nothing in config.json."""
    with pytest.raises(RefusedError, match=rf"{file} speaks of quantisation.*into config\.json as quantization_config"):
        open_quantisation({}, Source({}, {}, {file: {"bits": 4}}))


def test_groups_that_readers_resolve_differently_are_refused() -> None:
    """A module in two groups of different forms, unless one of them names it."""
    other = {**GROUP, "weights": {**WEIGHTS, "group_size": 32}}
    for second, message in (
        (["Linear"], "into group_0 and group_1"),
        (["re:.*mlp"], None),
    ):
        config = {**CT, "config_groups": {"group_0": GROUP, "group_1": {**other, "targets": second}}}
        opened = open_quantisation({"quantization_config": config}, Source({}))
        assert opened is not None
        if message is None:
            storage = opened.quantisation.storage("model.mlp.weight", LINEAR)
            assert storage is not None and storage.kind == "int4 in groups of 32 (pack-quantized)"
            continue
        with pytest.raises(SourceError, match=message):
            opened.quantisation.storage("model.mlp.weight", LINEAR)


def damaged(change: Callable[[np.ndarray], None]) -> Callable[[Any], Any]:
    """A reference whose array was changed."""

    def apply(ref: Any) -> Any:
        array = np.array(ref.read())
        change(array)
        return array_ref(ref.name, array)

    return apply


def points_outside(array: np.ndarray) -> None:
    array[5] = 99


def points_before(array: np.ndarray) -> None:
    array[5] = -1


def other_shape(array: np.ndarray) -> None:
    array[0] += 1


def zero_of_nought(array: np.ndarray) -> None:
    array[0, 0] |= 15


@pytest.mark.parametrize(
    ("name", "suffix", "change", "message"),
    [
        ("gptqmodel/gptq_activation_order_qwen3_tied", "g_idx", points_outside, r"g_idx points to group 99; expected 0 to 1"),
        ("gptqmodel/gptq_activation_order_qwen3_tied", "g_idx", points_before, r"g_idx points to group -1"),
        ("gptqmodel/gptq_qwen3", "qzeros", zero_of_nought, r"zero point of 0 in the format gptq.*gptq_v2"),
        (
            "llmcompressor/int4_group_qwen3_shards",
            "weight_shape",
            other_shape,
            r"weight_shape says \[257, 128\]; expected \[256, 128\]",
        ),
    ],
)
def test_values_that_make_no_sense_are_refused(tmp_path: Path, name: str, suffix: str, change: Any, message: str) -> None:
    """Right names and shapes, wrong contents: numbers that NumPy would take without a word."""
    case = unpack(name, tmp_path)
    storage = case.open().quantisation.storage("model.layers.0.mlp.up_proj.weight", Parameter((256, 128), "linear"))
    assert storage is not None
    tensors = dict(case.checkpoint.tensors)
    key = f"{storage.module}.{suffix}"
    with pytest.raises(JaxconvError, match=message):
        storage.dequantise({**tensors, key: damaged(change)(tensors[key])})


def test_kinds_of_torchao_that_depend_on_the_machine_are_refused(tmp_path: Path) -> None:
    """The metadata names the class of each tensor."""
    case = unpack("torchao/int8_weights_qwen3", tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    kind = {**json.loads(case.source.metadata[name]), "_type": "Int4TilePackedTo4dTensor"}
    source = dataclasses.replace(case.source, metadata={**case.source.metadata, name: json.dumps(kind)})
    opened = open_quantisation(case.config, source)
    assert opened is not None
    with pytest.raises(
        RefusedError, match=rf"{name} is a 'Int4TilePackedTo4dTensor' of torchao; expected one of: Int8Tensor"
    ):
        opened.quantisation.storage(name, case.parameters[name])


def test_matrices_alone_are_known() -> None:
    """Experts in one tensor of three dimensions have no published form that the schemes share."""
    opened = open_quantisation({"quantization_config": FP8}, Source({}))
    assert opened is not None
    with pytest.raises(SourceError, match=r"model\.experts\.weight has 3 dimensions"):
        opened.quantisation.storage("model.experts.weight", Parameter((4, 8, 8), "linear"))
