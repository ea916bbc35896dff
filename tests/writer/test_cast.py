"""--dtype: what a narrower dtype cannot hold is an error."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxconv.errors import RefusedError
from jaxconv.writer import cast as casting
from jaxconv.writer.cast import cast
from tests.support.conversions import convert, names
from tests.support.refs import array_ref
from tests.support.tiny import tiny_checkpoint

BF16 = ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        (np.array([1, -99840], np.float32), "F16", "magnitude 99840, which float16 cannot store: its largest is 65504"),
        (np.array([[1e5, 2e5], [3e5, 1]], np.float64), "F16", "magnitude 300000, which float16"),
        (np.array([1e10], BF16), "F16", r"magnitude 9.99922e\+09, which float16"),
        (
            np.array([3.4e38], np.float32),
            "BF16",
            r"magnitude 3.4e\+38, which bfloat16 cannot store: its largest is 3.38953e\+38",
        ),
        (np.array(1e39), "F32", r"magnitude 1e\+39, which float32"),
    ],
)
def test_values_that_overflow_are_refused(
    values: np.ndarray, dtype: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the tensor, the largest value and the limit, in `read` and in `take`, wherever the value lies."""
    monkeypatch.setattr(casting, "BLOCK", 1)
    ref = cast(array_ref("model.norm.weight", values), dtype)
    with pytest.raises(RefusedError, match=f"tensor model.norm.weight has a value of {message}"):
        ref.read()
    if values.ndim:
        with pytest.raises(RefusedError, match="cannot store"):
            ref.take(range(values.shape[0]), 0)


def test_values_that_fit_are_rounded() -> None:
    """The largest value, the ones that round to it, infinities and NaN of the source, matrices in any memory order."""
    limits = np.array([65504, -65504, 65519, np.inf, -np.inf, np.nan, 1e-9], np.float32)
    result = cast(array_ref("t", limits), "F16").read()
    assert result.dtype == np.float16
    assert np.array_equal(result, np.array([65504, -65504, 65504, np.inf, -np.inf, np.nan, 0], np.float16), equal_nan=True)
    matrix = np.random.default_rng(0).standard_normal((30, 70)).astype(np.float32).T
    assert np.array_equal(cast(array_ref("t", matrix), "BF16").read(), matrix.astype(BF16))
    assert cast(array_ref("t", np.empty((0, 4), np.float32)), "F16").read().shape == (0, 4)
    integers = array_ref("t", np.arange(3))
    assert cast(integers, "F16") is integers


def test_a_conversion_that_would_overflow_leaves_nothing(tmp_path: Path) -> None:
    """--dtype float16 of a model with a weight of 99840 is refused; bfloat16, which holds it, is not."""
    source = tiny_checkpoint(tmp_path / "source", "llama", tie=False)
    tensors = {name: array.astype(np.float32) for name, array in load_file(source / "model.safetensors").items()}
    tensors["model.norm.weight"][3] = 99840
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(RefusedError, match=r"tensor model.norm.weight has a value of magnitude 99840.*--dtype bfloat16 or"):
        convert(source, tmp_path / "out", dtype="float16")
    assert names(tmp_path) == ["source"]
    convert(source, tmp_path / "out", dtype="bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
