"""The inverse of every layout gives the raw container back, from the original's tensors and from converted ones."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import LayoutError
from jaxconv.layouts import from_hf, layouts, to_hf
from jaxconv.readers import open_checkpoint
from tests.foreign.cases import about, names, unpack
from tests.foreign.originals import original_tensors
from tests.support.refs import array_ref

FIXTURES = [name for name in names() if not about(name).get("refused")]
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@pytest.mark.parametrize("name", FIXTURES)
def test_the_originals_tensors_give_the_raw_container_back(tmp_path: Path, name: str) -> None:
    """What the foreign library stored is what the inverse makes of the model that the library was given."""
    case = unpack(name, tmp_path)
    raw = open_checkpoint(case.weights)
    original = original_tensors(case.config, case.about["seed"])
    dtype = DTYPES[case.about["dtype"]]
    output = Checkpoint("safetensors", "out", {key: array_ref(key, array.astype(dtype)) for key, array in original.items()})
    restored = from_hf(case.about["layout"], output, raw, case.config)
    assert restored.keys() == raw.tensors.keys() or set(raw.tensors) - set(restored) == _heads(raw, original)
    for key, ref in restored.items():
        array = ref.read()
        assert array.shape == ref.shape
        assert array.dtype == dtype
        stored = raw.tensors[key].read()[tuple(slice(size) for size in ref.shape)]
        if case.about["exact"]:
            assert np.array_equal(array, stored), key
        else:
            np.testing.assert_allclose(array.astype(np.float64), stored.astype(np.float64), rtol=2.0**-8, atol=2.0**-7)
            if dtype == np.float32:
                np.testing.assert_allclose(array, stored, rtol=1e-6, atol=1e-6)


def _heads(raw: Checkpoint, original: dict[str, np.ndarray]) -> set[str]:
    """The raw tensors of the LM head, where the original is tied and the library stores a head all the same."""
    return {key for key in raw.tensors if "lm_head" in key or "logits" in key} if "lm_head.weight" not in original else set()


def test_every_layout_is_tested() -> None:
    """Every layout has a fixture, or a test of its own below."""
    assert set(layouts()) == {about(name)["layout"] for name in FIXTURES} | {"hf", "maxtext-llama3.1"}


@pytest.mark.parametrize("prefix", ["", "model.", "model.language_model.", "language_model.model."])
def test_layout_hf_and_its_inverse(prefix: str) -> None:
    """Tensors get the names of the causal LM's class, and the inverse gives them their own again; the head has no entry."""
    backbone = ("embed_tokens.weight", "layers.0.input_layernorm.weight", "norm.weight")
    stored = {f"{prefix}{name}": np.full(3, value, np.float32) for value, name in enumerate(backbone)}
    head = "language_model.lm_head.weight" if prefix.startswith("language_model") else "lm_head.weight"
    refs = {name: array_ref(name, array) for name, array in (stored | {head: np.full(3, 7, np.float32)}).items()}
    raw = Checkpoint("safetensors", "here", refs)
    layout, converted = to_hf(raw, {})
    assert layout == "hf"
    standard = ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "model.norm.weight", "lm_head.weight"]
    assert list(converted.tensors) == standard
    assert [ref.name for ref in converted.tensors.values()] == standard
    assert any("renamed" in note for note in converted.notes) == (prefix != "model.")
    output = {name: ref for name, ref in converted.tensors.items() if name != "lm_head.weight"}
    restored = from_hf("hf", Checkpoint("safetensors", "out", output), raw, {})
    assert restored.keys() == stored.keys()
    assert all(np.array_equal(restored[name].read(), array) for name, array in stored.items())


def test_two_spellings_of_one_name_are_refused() -> None:
    """A tensor under both names would be lost."""
    both = ["model.embed_tokens.weight", "model.norm.weight", "model.language_model.norm.weight"]
    raw = Checkpoint("safetensors", "here", {name: array_ref(name, np.ones(3, np.float32)) for name in both})
    with pytest.raises(LayoutError, match=r"both mean model\.norm\.weight"):
        to_hf(raw, {})


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    """A stacked array cannot be restored from some of its layers."""
    case = unpack("maxtext/qwen3_scanned_tied", tmp_path)
    raw = open_checkpoint(case.weights)
    original = original_tensors(case.config, case.about["seed"])
    del original["model.layers.1.mlp.down_proj.weight"]
    output = Checkpoint("safetensors", "out", {key: array_ref(key, array) for key, array in original.items()})
    with pytest.raises(LayoutError, match=r"lacks 1 of .*model\.layers\.1\.mlp\.down_proj\.weight"):
        from_hf("maxtext", output, raw, case.config)


def test_layout_maxtext_llama31_without_its_rope_type(tmp_path: Path) -> None:
    """Chosen by name, the layout pairs rotary dimensions although the config does not say so."""
    case = unpack("maxtext/llama31_scanned", tmp_path)
    config = {key: value for key, value in case.config.items() if key not in ("rope_scaling", "rope_parameters")}
    raw = open_checkpoint(case.weights)
    original = original_tensors(case.config, case.about["seed"])
    output = Checkpoint("safetensors", "out", {key: array_ref(key, array) for key, array in original.items()})
    query = "decoder.layers.self_attention.query.kernel"
    restored = {layout: from_hf(layout, output, raw, config)[query].read() for layout in ("maxtext", "maxtext-llama3.1")}
    assert np.allclose(restored["maxtext-llama3.1"], raw.tensors[query].read(), rtol=1e-6, atol=1e-6)
    assert not np.allclose(restored["maxtext"], raw.tensors[query].read(), rtol=1e-3, atol=1e-3)
