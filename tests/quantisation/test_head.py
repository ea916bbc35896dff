"""The head is what the tensors say it is: plain, 8 bits with a scale, or packed and refused."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxconv.checkpoint import TensorRef
from jaxconv.errors import RefusedError, SourceError
from jaxconv.quantisation import find_stored_head
from tests.foreign.quantised.cases import equals_record, readable, unpack
from tests.support.refs import array_ref

ROWS, COLUMNS = 200, 160  # partial blocks of 128 both ways
RNG = np.random.default_rng(0)
FP8 = RNG.standard_normal((ROWS, COLUMNS)).astype(ml_dtypes.float8_e4m3fn)
INT8 = RNG.integers(-128, 128, (ROWS, COLUMNS)).astype(np.int8)


def tensors(**arrays: np.ndarray) -> dict[str, TensorRef]:
    """References under lm_head, with the names' double underscores as dots."""
    names = {f"lm_head.{name}": array for name, array in arrays.items()}
    return {name: array_ref(name, array) for name, array in names.items()}


@pytest.mark.parametrize("name", readable())
def test_heads_that_libraries_wrote(tmp_path: Path, name: str) -> None:
    """All are plain but one: the rows are the stored ones as float32, or the library's product."""
    case = unpack(name, tmp_path)
    stored = case.checkpoint.tensors
    head = find_stored_head(stored)
    if case.about["tied"]:
        assert head is None
        head = find_stored_head(stored, "model.embed_tokens")
    assert head is not None
    every = head.rows(range(head.weight.shape[0]))
    assert every.dtype == np.float32
    if name == "fp8/static_head_qwen3":
        assert equals_record(every, case.about["dequantised"]["lm_head"])
        assert set(head.tensors) == {"lm_head.weight", "lm_head.weight_scale", "lm_head.input_scale"}
        assert head.record == "lm_head.weight is F8_E4M3: rows are dequantised with lm_head.weight_scale in float32"
    else:
        assert np.array_equal(every, head.weight.read().astype(np.float32)) and head.record == ""
        assert head.tensors == (head.weight.name,)
    assert np.array_equal(head.rows([7, 5, 7]), every[[7, 5, 7]])


@pytest.mark.parametrize("codes", [FP8, INT8], ids=["fp8", "int8"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (ROWS,), (ROWS, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_scale_of_every_shape(codes: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    """One number, one per row, one per block of 128 x 128: each element times its own, a float32 product."""
    scale = np.asarray(RNG.random(shape) + 0.5).astype(dtype)
    head = find_stored_head(tensors(weight=codes, weight_scale=scale))
    assert head is not None
    for token in (0, 127, 128, ROWS - 1):
        row = head.rows([token])
        for column in (0, 127, 128, COLUMNS - 1):
            place = (token // 128, column // 128) if shape == (2, 2) else (token, *[0] * (len(shape) - 1))
            factor = scale.reshape(-1)[0] if scale.size == 1 else scale[place[: len(shape)]]
            assert row[0, column] == np.float32(codes[token, column]) * np.float32(factor)


def test_zero_points_are_subtracted_first() -> None:
    """(code - zero point) · scale, per row."""
    zero, scale = RNG.integers(-9, 9, (ROWS, 1)).astype(np.int8), RNG.random((ROWS, 1)).astype(np.float32)
    head = find_stored_head(tensors(weight=INT8, weight_scale=scale, weight_zero_point=zero))
    assert head is not None
    expected = (INT8[[3]].astype(np.float32) - zero[[3]].astype(np.float32)) * scale[[3]]
    assert np.array_equal(head.rows([3]), expected) and np.any(expected != INT8[[3]] * scale[[3]])


def test_no_head_is_none() -> None:
    """A tied checkpoint, and one that has only the bias of a head."""
    assert find_stored_head({}) is None
    assert find_stored_head(tensors(bias=np.zeros(ROWS, np.float32))) is None


WORDS, BYTES = np.zeros((ROWS, 20), np.int32), np.zeros((ROWS, 80), np.uint8)
ONE, PER_ROW = np.float32(1).reshape(()), np.ones((ROWS, 1), np.float32)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"weight_packed": WORDS, "weight_scale": PER_ROW}, RefusedError,
         r"packed: the checkpoint has lm_head\.weight_packed, lm_head\.weight_scale; expected a plain lm_head\.weight"),
        ({"qweight": WORDS, "qzeros": WORDS, "scales": WORDS}, RefusedError, r"head is packed.*lm_head\.qweight.*left out"),
        ({"_weight_qdata": INT8, "_weight_scale": PER_ROW}, RefusedError, r"lm_head\._weight_qdata"),
        ({"weight": BYTES}, RefusedError, r"packed: the checkpoint has lm_head\.weight of U8"),
        ({"weight": BYTES, "weight_scale": FP8, "weight_scale_2": ONE}, RefusedError,
         r"packed.*lm_head\.weight_scale_2"),
        ({"weight": FP8}, SourceError, r"F8_E4M3 and has no scale beside it; expected one of lm_head\.weight_scale"),
        ({"weight": FP8, "weight_scale": ONE, "weight_scale_inv": ONE}, SourceError,
         r"weight_scale and weight_scale_inv beside it"),
        ({"weight": FP8, "weight_scale": np.ones((3, 2), np.float32)}, SourceError,
         r"lm_head\.weight_scale is F32 \[3, 2\] beside lm_head\.weight \[200, 160\]; expected one number"),
        ({"weight": FP8.astype(np.float32), "weight_scale": ONE}, SourceError,
         r"lm_head\.weight is F32, and lm_head\.weight_scale lies beside it: the rows are either plain or scaled"),
    ],
)  # fmt: skip
def test_a_head_that_has_no_rows_is_refused(arrays: dict[str, np.ndarray], error: type[Exception], message: str) -> None:
    """Packed words by name; a scale that is missing, double or of another shape."""
    with pytest.raises(error, match=message):
        find_stored_head(tensors(**arrays))
