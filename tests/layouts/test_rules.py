"""Every row of every table goes to Hugging Face's form and back without a change."""

from __future__ import annotations

import dataclasses
import re
from itertools import product

import ml_dtypes
import numpy as np
import pytest

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import LayoutError
from jaxconv.layouts import gemma, maxtext, tunix
from jaxconv.layouts._rules import VALUES, Rule, apply_rules, axis_sizes, to_foreign
from tests.foreign.originals import original_config
from tests.support.refs import array_ref as ref

FAMILIES = {maxtext: ("llama", "llama3.1", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"),
            tunix: tuple(tunix.LAYERS), gemma: tuple(gemma.LAYERS)}  # fmt: skip
LLAMA31 = {"rope_scaling": {"rope_type": "llama3"}}


def _config(family: str) -> dict:
    return original_config("llama", **LLAMA31) if family == "llama3.1" else original_config(family)


def _rules() -> list:
    return [
        pytest.param(rule, family, id=f"{layout.NAME}-{family}-{rule.foreign}-{rule.axes.replace(' ', '')}")
        for layout, families in FAMILIES.items()
        for family in families
        for rule in layout.rules(_config(family))
    ]


def _sizes(family: str) -> dict[str, int]:
    sizes = axis_sizes(_config(family))
    return sizes | {"Q": sizes["N"] * sizes["H"], "K": sizes["G"] * sizes["H"]}


@pytest.mark.parametrize(("rule", "family"), _rules())
def test_row_and_inverse(rule: Rule, family: str) -> None:
    """Foreign -> Hugging Face -> foreign gives the same array; head_dim 16 makes its scaling exact."""
    sizes = _sizes(family)
    shape = [{"L": 2, "P": len(rule.hf), "W": sizes["V"] + 24}.get(symbol) or sizes[symbol] for symbol in rule.axes.split()]
    generator = np.random.default_rng(0)
    array = generator.standard_normal(shape).astype(ml_dtypes.bfloat16).astype(np.float32)
    if "W" in rule.axes.split():
        padding = [slice(None)] * array.ndim
        padding[rule.axes.split().index("W")] = slice(sizes["V"], None)
        array[tuple(padding)] = 0
    name = rule.foreign.replace("{i}", "1")
    found = apply_rules(Checkpoint("orbax", "here", {name: ref(name, array)}), [rule], sizes, "any").tensors
    layers = 2 if "L" in rule.axes.split() else 1
    assert len(found) == layers * len(rule.hf)
    parts = {}
    for layer, part in product(range(layers), range(len(rule.hf))):
        number = rule.layer[0] * layer + rule.layer[1] + rule.layer[2]
        tensor = found[rule.hf[part].replace("{i}", str(number) if "{i}" in rule.foreign else str(number - rule.layer[1]))]
        assert tensor.read().shape == tensor.shape
        for axis in range(len(tensor.shape)):
            assert np.array_equal(tensor.take([2, 0], axis), tensor.read().take([2, 0], axis))
        parts[layer, part] = tensor.read()
    back = to_foreign(rule, parts, sizes)
    array = array[tuple(slice(sizes["V"]) if symbol == "W" else slice(None) for symbol in rule.axes.split())]
    assert back.shape == array.shape
    exact = not {"minus one", "over sqrt(D)", "over bfloat16 sqrt(D)"} & set(rule.values)
    assert np.array_equal(back, array) if exact else np.allclose(back, array, rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("value", list(VALUES))
def test_a_value_change_changes_values(value: str) -> None:
    """No change is the identity, and the inverse undoes it."""
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    changed = VALUES[value].to_hf(x, ("N", "H"), {"H": 16, "D": 24})
    assert not np.allclose(changed, x)
    assert np.allclose(VALUES[value].from_hf(changed, ("N", "H"), {"H": 16, "D": 24}), x, rtol=1e-6, atol=1e-6)


def _maxtext() -> tuple[dict, dict]:
    config = original_config("qwen3", tie_word_embeddings=True)
    sizes = axis_sizes(config)
    tensors = {}
    for rule in maxtext.rules(config):
        if rule.foreign.startswith("decoder.layers.") or ("layers" not in rule.foreign and "logits" not in rule.foreign):
            if "bias" in rule.foreign:
                continue
            shape = [{"L": 3, "W": sizes["V"]}.get(symbol) or sizes[symbol] for symbol in rule.axes.split()]
            tensors[rule.foreign] = ref(rule.foreign, np.ones(shape, np.float32))
    return config, tensors


def _with_unknown(tensors: dict) -> None:
    tensors["decoder.layers.gate.kernel"] = ref("decoder.layers.gate.kernel", np.ones((2, 2), np.float32))


def _with_wrong_shape(tensors: dict) -> None:
    tensors["decoder.layers.mlp.wo.kernel"] = ref("decoder.layers.mlp.wo.kernel", np.ones((48, 3, 31), np.float32))


def _with_second(tensors: dict) -> None:
    other = tensors["decoder.layers.mlp.wo.kernel"]
    array = np.ones((48, 32), np.float32)
    tensors["decoder.layers_1.mlp.wo.kernel"] = dataclasses.replace(other, name="x", shape=(48, 32), read=lambda: array)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (_with_unknown, r"1 unknown \(decoder\.layers\.gate\.kernel\)"),
        (_with_wrong_shape, r"decoder\.layers\.mlp\.wo\.kernel is \[48, 3, 31\], expected \[48, layers, 32\]"),
        (_with_second, r"1 twice \(model\.layers\.1\.mlp\.down_proj\.weight"),
    ],
)
def test_names_and_shapes_that_do_not_fit_are_listed(break_it, said: str) -> None:
    """Unknown, misshaped and doubled names each say which."""
    config, tensors = _maxtext()
    assert maxtext.to_hf(Checkpoint("orbax", "here", tensors), config).tensors
    break_it(tensors)
    with pytest.raises(LayoutError, match=said):
        maxtext.to_hf(Checkpoint("orbax", "here", tensors), config)


def test_every_layout_names_its_families_in_the_error() -> None:
    """A family that a layout has no table for is an error with those that it has."""
    for layout in FAMILIES:
        with pytest.raises(LayoutError, match=re.escape("no table for phi3")):
            layout.rules(original_config("llama") | {"model_type": "phi3"})
