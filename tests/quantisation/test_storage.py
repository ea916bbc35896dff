"""Every tensor of a quantised checkpoint is expected by name, dtype and shape, so that whatever is wrong is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from jaxconv.checkpoint import TensorRef
from jaxconv.errors import RefusedError, SourceError
from jaxconv.quantisation import Layout, check_tensors
from tests.foreign.quantised.cases import Case, readable, unpack
from tests.support.refs import array_ref

LIBRARIES = {"bitsandbytes", "fp8", "gptqmodel", "llmcompressor", "modelopt", "torchao"}
# One per form that has tensors of its own.
FORMS = [
    "fp8/block_qwen3_tied_shards",
    "fp8/static_llama",
    "gptqmodel/awq_qwen3",
    "gptqmodel/gptq_qwen3",
    "llmcompressor/int8_qwen3",
    "llmcompressor/int8_asymmetric_qwen2",
    "llmcompressor/int4_asymmetric_llama_tied",
    "llmcompressor/fp8_static_llama_kv_cache",
    "llmcompressor/nvfp4_qwen3",
    "modelopt/nvfp4_qwen3",
    "modelopt/mxfp8_qwen3",
    "torchao/int8_weights_qwen3",
]


def check(case: Case, tensors: dict[str, TensorRef]) -> Layout:
    return check_tensors(case.open().quantisation, case.parameters, tensors)


def findings(layout: Layout) -> list[str]:
    return [*layout.missing, *layout.unexpected, *layout.misshapen, *layout.contradictions]


def test_all_libraries_have_fixtures() -> None:
    """A missing directory would make the tests below pass by running none."""
    assert {name.split("/")[0] for name in readable()} == LIBRARIES - {"bitsandbytes"}
    assert len(readable()) >= 40


@pytest.mark.parametrize("name", readable())
def test_nothing_is_wrong_with_what_a_library_wrote(tmp_path: Path, name: str) -> None:
    """Every tensor is explained: the backbone has all of them but the head's."""
    case = unpack(name, tmp_path)
    tensors = dict(case.checkpoint.tensors)
    layout = check(case, tensors)
    assert findings(layout) == []
    assert set(layout.backbone) == {key for key in tensors if not key.startswith("lm_head.")}
    assert {storage.module for storage in layout.storages.values()} == set(case.about["dequantised"]) - {"lm_head"}


@pytest.mark.parametrize("name", FORMS)
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    """Each stored tensor of one linear in turn, and a plain norm."""
    case = unpack(name, tmp_path)
    tensors = dict(case.checkpoint.tensors)
    storage = check(case, tensors).storages["model.layers.0.mlp.up_proj.weight"]
    stored = [full for full, part in storage.names().items() if part.required]
    assert len(stored) >= 2
    for missing in [*stored, "model.norm.weight"]:
        layout = check(case, {key: ref for key, ref in tensors.items() if key != missing})
        assert layout.missing == (missing,), missing
        assert findings(layout) == [missing]


@pytest.mark.parametrize("name", FORMS)
def test_another_shape_is_named_with_what_was_expected(tmp_path: Path, name: str) -> None:
    """Each stored tensor one longer along its last axis; a scalar as a vector of two."""
    case = unpack(name, tmp_path)
    tensors = dict(case.checkpoint.tensors)
    for full in check(case, tensors).storages["model.layers.0.mlp.down_proj.weight"].names():
        if full not in tensors:
            continue
        ref = tensors[full]
        shape = (*ref.shape[:-1], ref.shape[-1] + 1) if ref.shape else (2,)
        layout = check(case, {**tensors, full: dataclasses.replace(ref, shape=shape)})
        assert len(layout.misshapen) == 1 and findings(layout) == list(layout.misshapen)
        assert layout.misshapen[0].startswith(f"{full} is {ref.dtype} {list(shape)}; expected ")
        assert str(list(ref.shape)) in layout.misshapen[0]


@pytest.mark.parametrize("name", FORMS)
def test_another_dtype_is_named(tmp_path: Path, name: str) -> None:
    """Codes stored as 16-bit integers are codes of something else."""
    case = unpack(name, tmp_path)
    tensors = dict(case.checkpoint.tensors)
    codes = next(iter(check(case, tensors).storages["model.layers.0.self_attn.q_proj.weight"].names()))
    layout = check(case, {**tensors, codes: dataclasses.replace(tensors[codes], dtype="I16")})
    assert findings(layout) == list(layout.misshapen)
    assert f"{codes} is I16 {list(tensors[codes].shape)}; expected" in layout.misshapen[0]


@pytest.mark.parametrize("name", FORMS)
def test_a_tensor_that_nothing_explains_is_named(tmp_path: Path, name: str) -> None:
    """A scale of another scheme beside a linear, and a layer too many. The head's own tensors are not this check's."""
    case = unpack(name, tmp_path)
    tensors = dict(case.checkpoint.tensors)
    extra = dict.fromkeys(
        ["model.layers.0.mlp.up_proj.pre_quant_scale", "model.layers.9.mlp.up_proj.weight", "lm_head.weight_scale"],
        tensors["model.norm.weight"],
    )
    assert findings(check(case, {**tensors, **extra})) == list(extra)[:2]


def test_scales_of_a_cache_are_expected_only_where_there_is_one(tmp_path: Path) -> None:
    """The config that has a kv_cache_scheme explains k_scale and v_scale; without it they are named."""
    case = unpack("llmcompressor/fp8_static_llama_kv_cache", tmp_path)
    config = case.config
    scales = ["model.layers.0.self_attn.k_scale", "model.layers.0.self_attn.v_scale"]
    assert set(scales) <= set(check(case, dict(case.checkpoint.tensors)).backbone)
    del config["quantization_config"]["kv_cache_scheme"]
    (case.folder / "config.json").write_text(json.dumps(config))
    assert list(check(case, dict(case.checkpoint.tensors)).unexpected) == scales


def test_what_config_and_tensors_disagree_on_is_one_finding_each(tmp_path: Path) -> None:
    """A linear that the config leaves plain and the file packs, and the reverse."""
    case = unpack("llmcompressor/int4_group_qwen3_shards", tmp_path)
    tensors = dict(case.checkpoint.tensors)
    packed = [key for key in tensors if key.startswith("model.layers.0.mlp.up_proj.")]
    plain = array_ref("model.layers.0.mlp.up_proj.weight", np.zeros((256, 128), "float32"))
    layout = check(case, {**{key: ref for key, ref in tensors.items() if key not in packed}, plain.name: plain})
    assert findings(layout) == list(layout.contradictions)
    assert layout.contradictions == (
        "model.layers.0.mlp.up_proj is int4 in groups of 128 (pack-quantized) in quantization_config, and its weight in the "
        "file is F32",
    )
    config = case.config
    config["quantization_config"]["ignore"].append("model.layers.0.mlp.up_proj")
    (case.folder / "config.json").write_text(json.dumps(config))
    layout = check(case, tensors)
    assert findings(layout) == list(layout.contradictions)
    assert layout.contradictions == (
        "model.layers.0.mlp.up_proj is plain in quantization_config, and the file has its weight_packed, weight_scale, "
        "weight_shape",
    )


def test_a_quantised_config_over_plain_tensors_says_what_to_remove(tmp_path: Path) -> None:
    """Somebody dequantised the weights and left the key."""
    case = unpack("fp8/block_list_llama", tmp_path)
    tensors = {
        key: dataclasses.replace(ref, dtype="BF16")
        for key, ref in case.checkpoint.tensors.items()
        if not key.endswith("_inv")
    }
    with pytest.raises(RefusedError, match=r"every tensor is plain.*remove quantization_config from config\.json"):
        check(case, tensors)


@pytest.mark.parametrize("name", ["llmcompressor/int4_group_qwen3_shards", "gptqmodel/gptq_qwen3"])
def test_a_damaged_linear_is_not_dequantised(tmp_path: Path, name: str) -> None:
    """A truncated packed tensor and a missing scale are errors of the read too, not numbers."""
    case = unpack(name, tmp_path)
    tensors = dict(case.checkpoint.tensors)
    storage = check(case, tensors).storages["model.layers.0.mlp.up_proj.weight"]
    codes, scale = (
        next(key for key in storage.names() if key.endswith(end)) for end in (("packed", "qweight"), ("scale", "scales"))
    )
    short = dataclasses.replace(tensors[codes], shape=(tensors[codes].shape[0] - 1, tensors[codes].shape[1]))
    with pytest.raises(SourceError, match=rf"{codes} is I32 .*; expected I32 "):
        storage.dequantise({**tensors, codes: short})
    with pytest.raises(SourceError, match=rf"{scale} is missing"):
        storage.dequantise({key: ref for key, ref in tensors.items() if key != scale})
