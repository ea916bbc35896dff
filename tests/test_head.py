"""Head arithmetic: the same bits from every backend, and the oracle's."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest

from jaxconv.backends import get_backend, names
from jaxconv.errors import BackendUnavailable, SourceError
from jaxconv.families import LmHead, LogitTransform
from jaxconv.head import METHODS, Affine, Method, compute_head, read_head_rows
from jaxconv.text.tokenizer import Token
from tests.support.refs import array_ref


@pytest.fixture(params=names())
def backend(request: pytest.FixtureRequest) -> object:
    """Every backend; one that is not installed fails here, never skips."""
    return get_backend(request.param, "cpu")


@pytest.mark.parametrize("scale", [1.0, 0.0625, 1 / 3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_bits_are_numpys(backend: object, dtype: type, method: Method, scale: float) -> None:
    """Rows from normal to subnormal size give the bits of plain float32 NumPy, whatever the backend."""
    random = np.random.default_rng(0)
    powers = 10.0 ** random.integers(-40, 3, (2, 1024))
    rows = (random.standard_normal((2, 1024)) * powers).astype(dtype)
    head = compute_head(rows, None, method, LogitTransform(scale=scale), Affine(), backend)  # type: ignore[arg-type]
    wide = rows.astype(np.float32)
    expected = (wide[1] - wide[0])[None] if method == "from_2_way_softmax" else wide
    if scale == 1.0:
        assert head.weight.tobytes() == expected.tobytes()
    else:
        reference = compute_head(rows, None, method, LogitTransform(scale=scale), Affine(), get_backend("numpy"))
        assert head.weight.tobytes() == reference.weight.tobytes()
        assert np.allclose(head.weight, expected * np.float32(scale), rtol=2e-7, atol=1e-44)
    assert head.weight.dtype == np.float32 and head.bias is None


def test_bias_is_the_difference_then_the_calibration(backend: object) -> None:
    """score.bias = scale x (b_true - b_false) + bias."""
    rows = np.eye(2, 4, dtype=np.float32)
    head = compute_head(
        rows, np.array([1.0, 4.0], np.float32), METHODS[0], LogitTransform(bias=True), Affine(0.5, -2.0), backend
    )  # type: ignore[arg-type]
    assert head.bias is not None and head.bias.tolist() == [-0.5]
    assert head.weight.tolist() == [[-0.5, 0.5, 0.0, 0.0]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(value: float) -> None:
    """NaN or infinity in a row that is taken is an error; elsewhere it does not matter."""
    weight = np.zeros((4, 8), np.float32)
    weight[2, 3] = value
    head = LmHead(array_ref("lm_head.weight", weight), None, tied=False)
    with pytest.raises(SourceError, match=r"row 2 .*'yes'"):
        read_head_rows(head, [Token("no", 1), Token("yes", 2)])
    read_head_rows(head, [Token("no", 0), Token("yes", 3)])


def test_unknown_and_missing_backends_say_so() -> None:
    """Unknown names list the known ones; a device that is not there is named."""
    with pytest.raises(BackendUnavailable, match="jax, numpy, torch"):
        get_backend("mlx")
    with pytest.raises(BackendUnavailable, match="'tpu'"):
        get_backend("torch", "tpu")
    with pytest.raises(BackendUnavailable, match="auto, cpu, gpu, tpu"):
        get_backend("numpy", "npu")


def test_a_missing_framework_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that is not installed is an error with the command; auto takes torch without jax, and needs one."""
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'jaxconv\[jax\]'"):
        get_backend("jax")
    assert get_backend("auto", "cpu").name == "torch"
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendUnavailable, match="--backend numpy"):
        get_backend("auto")
