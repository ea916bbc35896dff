"""What real libraries wrote converts to the original's tensors and gives the library's own logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification

import jaxconv
from jaxconv.errors import JaxconvError, RefusedError
from tests.foreign.cases import TOKENS, about, names, unpack
from tests.foreign.originals import original_tensors

NAMES = names()
REFUSED = [name for name in NAMES if about(name).get("refused")]
GOOD = [name for name in NAMES if name not in REFUSED]
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def test_there_are_fixtures() -> None:
    """An empty folder would make the tests below pass by running none."""
    assert {name.split("/")[0] for name in GOOD} >= {"transformers_flax", "nnx", "easydel", "maxtext", "tunix", "gemma"}


@pytest.mark.parametrize("name", GOOD)
def test_tensors_and_logits_of_the_original(tmp_path: Path, name: str) -> None:
    """Tensors equal the original bit for bit where the library permutes, within one rounding where it scales."""
    case = unpack(name, tmp_path)
    result = jaxconv.convert(case.weights, tmp_path / "out", base=case.original, classifier_from_tokens=TOKENS, backend="jax")
    assert result.plan.model.layout == case.about["layout"]
    expected = original_tensors(case.config, case.about["seed"])
    head = expected.pop("lm_head.weight", expected["model.embed_tokens.weight"])
    found = load_file(tmp_path / "out" / "model.safetensors")
    row = found.pop("score.weight")
    assert found.keys() == expected.keys()
    dtype = DTYPES[case.about["dtype"]]
    for key, tensor in found.items():
        assert tensor.dtype == dtype, key
        _assert_equal(tensor, expected[key].astype(dtype), case.about["exact"], key)
    assert jaxconv.verify(case.weights, tmp_path / "out", base=case.original, structure_only=True).findings == ()
    rounding = 0 if case.about["exact"] else 2 * np.spacing(np.abs(head[[5, 7]]).max())
    assert np.abs(row[0] - (head[7] - head[5])).max() <= rounding
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        scores = model(torch.tensor(case.about["token_ids"])).logits[:, 0].numpy()
    tolerance = case.about.get("logits_tolerance", 1e-4)
    assert np.abs(scores - (case.logits[:, 7] - case.logits[:, 5])).max() <= tolerance


def _assert_equal(found: np.ndarray, expected: np.ndarray, exact: bool, key: str) -> None:
    assert found.shape == expected.shape, key
    if exact:
        assert found.tobytes() == expected.tobytes(), key
        return
    # One rounding of the value that was stored: norms lie near one there, the others near their own size.
    wide = found.astype(np.float64), expected.astype(np.float64)
    unit = np.finfo(np.float32).eps if found.dtype == np.float32 else 2.0**-7
    size = np.maximum(np.abs(wide[1]), 2.0 if key.endswith("norm.weight") else 0.0)
    assert (np.abs(wide[0] - wide[1]) <= unit * size).all(), key


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused(tmp_path: Path, name: str) -> None:
    """Adapters alone, optimizer state alone, heads that contradict the tie: the reason is said, nothing is written."""
    case = unpack(name, tmp_path)
    with pytest.raises(RefusedError, match=r"LoRA|optimizer|differ|classifier"):
        jaxconv.convert(case.weights, tmp_path / "out", base=case.original, classifier_from_tokens=TOKENS, backend="numpy")
    assert not (tmp_path / "out").exists()


def test_a_step_can_be_chosen(tmp_path: Path) -> None:
    """Step 10 is newer than step 2, whose values all are 0.25; --step takes it; one that is not there is an error."""
    case = unpack("nnx/llama_manager", tmp_path)
    for step, expected in ((2, 0.25), (10, original_tensors(case.config, 0)["model.norm.weight"])):
        out = tmp_path / str(step)
        jaxconv.convert(case.weights, out, base=case.original, step=step, classifier_from_tokens=TOKENS, backend="numpy")
        assert np.all(load_file(out / "model.safetensors")["model.norm.weight"] == expected)
    with pytest.raises(JaxconvError, match=r"has no step 3; it has 2, 10"):
        jaxconv.convert(case.weights, tmp_path / "x", base=case.original, step=3, classifier_from_tokens=TOKENS)


def test_paired_rotary_dimensions_can_be_said(tmp_path: Path) -> None:
    """Without a rope type in the config MaxText's Llama is warned about, and --layout maxtext-llama3.1 reads the pairs."""
    case = unpack("maxtext/llama31_scanned", tmp_path)
    config = json.loads((case.original / "config.json").read_text())
    del config["rope_scaling"]
    (case.original / "config.json").write_text(json.dumps(config))
    expected = original_tensors(case.config, 0)["model.layers.0.self_attn.k_proj.weight"]
    for layout, right in (("maxtext", False), ("maxtext-llama3.1", True)):
        out = tmp_path / layout
        result = jaxconv.convert(case.weights, out, base=case.original, layout=layout, classifier_from_tokens=TOKENS)
        assert any("--layout maxtext-llama3.1" in warning for warning in result.plan.warnings) is not right
        found = load_file(out / "model.safetensors")["model.layers.0.self_attn.k_proj.weight"]
        assert np.array_equal(found, expected) is right


@pytest.mark.parametrize("name", GOOD)
def test_a_wrong_base_is_found_before_anything_is_written(tmp_path: Path, name: str) -> None:
    """A base of other sizes contradicts the tensors: layers and hidden size each."""
    case = unpack(name, tmp_path)
    config = (case.original / "config.json").read_text()
    layers = case.config["num_hidden_layers"]
    hidden = case.config["hidden_size"]
    for key, right, wrong in (("num_hidden_layers", layers, layers + 6), ("hidden_size", hidden, hidden * 2)):
        base = tmp_path / key
        shutil.copytree(case.original, base)
        (base / "config.json").write_text(config.replace(f'"{key}": {right}', f'"{key}": {wrong}'))
        with pytest.raises(JaxconvError, match=r"expected|disagree"):
            jaxconv.convert(case.weights, tmp_path / "out", base=base, classifier_from_tokens=TOKENS, backend="numpy")
    assert not (tmp_path / "out").exists()
