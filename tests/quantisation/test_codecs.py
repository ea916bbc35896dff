"""The arithmetic on numbers that can be checked by hand, and the rules by which readers match names."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from jaxconv.quantisation.codecs import awq_fields, e2m1, fields, fields_down, scaled, spread, widen
from jaxconv.quantisation.matching import containing, containing_or_wildcard, exactly, exactly_or_regex


def test_fields_of_words() -> None:
    """Lowest first; the sign bit of a word is the top of its last field; what fills the last word is left out."""
    words = np.array([[0x76543210, 0xFEDCBA98 - (1 << 32)]], np.int32)
    assert fields(words, 4, 16).tolist() == [list(range(16))]
    assert fields(words, 4, 11).tolist() == [list(range(11))]
    assert fields(words, 8, 3).tolist() == [[0x10, 0x32, 0x54]]
    assert np.array_equal(fields_down(words.T, 4, 11), fields(words, 4, 11).T)
    assert np.array_equal(fields_down(words.T, 8, 8), fields(words, 8, 8).T)


def test_awqs_order() -> None:
    """Nibble k of a word is column (0, 2, 4, 6, 1, 3, 5, 7)[k]."""
    assert awq_fields(np.array([[0x76543210]], np.int32), 8).tolist() == [[0, 4, 1, 5, 2, 6, 3, 7]]


def test_four_bit_floats() -> None:
    """Low nibble first; the eighth code is minus zero."""
    values = e2m1(np.array([[0x10, 0x72, 0xF8]], np.uint8), 6)
    assert values.tolist() == [[0.0, 0.5, 1.0, 6.0, 0.0, -6.0]]
    assert np.signbit(values[0, 4])


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz"])
def test_every_code_of_eight_bits(dtype: str) -> None:
    """The table is the cast, not-a-number included."""
    codes = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, dtype))
    assert np.array_equal(widen(codes), codes.astype(np.float32), equal_nan=True)


def test_integers_are_not_codes() -> None:
    """int8 and uint8 are numbers, and negative ones stay so."""
    assert widen(np.array([-128, 127], np.int8)).tolist() == [-128.0, 127.0]
    assert widen(np.array([255], np.uint8)).tolist() == [255.0]


def test_partial_blocks() -> None:
    """Blocks of 2 x 3 over 3 x 4: the last row and the last column belong to blocks that end early."""
    scales = np.array([[1, 2], [3, 4]], np.float32)
    assert scaled(np.ones((3, 4), np.float32), scales, (2, 3)).tolist() == [[1, 1, 1, 2], [1, 1, 1, 2], [3, 3, 3, 4]]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1, 1)])
def test_one_scale_for_all(shape: tuple[int, ...]) -> None:
    """However many axes it is stored with."""
    assert spread(np.full(shape, 5, np.float32), (128, 128), (3, 4)).tolist() == [[5.0]]


def test_a_grid_may_have_axes_of_one() -> None:
    """modelopt writes [rows, 1, columns, 1]."""
    grid = np.array([1, 2, 3, 4], np.float32).reshape(2, 1, 2, 1)
    assert spread(grid, (1, 1), (2, 2)).tolist() == [[1, 2], [3, 4]]


MODULE = "model.layers.11.mlp.down_proj"


@pytest.mark.parametrize(
    ("rule", "means", "does_not"),
    [
        (exactly, [MODULE], ["down_proj", "model.layers.11.mlp", f"{MODULE}.x"]),
        (exactly_or_regex, [MODULE, r"re:.*down_proj", r"re:model"], ["down_proj", "re:down_proj", "re:.*up_proj"]),
        (containing, [MODULE, "down", "layers.1"], ["up_proj", "layers.2"]),
        (containing_or_wildcard, ["down", "model.layers.11*", "*.down_proj"], ["model.layers.2*", "*.up_proj", "layers.11*"]),
    ],
)
def test_whom_a_list_means(rule: object, means: list[str], does_not: list[str]) -> None:
    """Each entry on its own, and an empty list means none."""
    assert callable(rule)
    assert all(rule(MODULE, [entry]) for entry in means)
    assert not any(rule(MODULE, [entry]) for entry in does_not)
    assert not rule(MODULE, [])
