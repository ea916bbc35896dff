"""Distances of floating-point numbers in units of their last place."""

from __future__ import annotations

from collections.abc import Mapping

from jaxconv.checkpoint import Array

# safetensors dtype -> bits of the significand, exponent of the smallest positive number.
PRECISION: Mapping[str, tuple[int, int]] = {"F64": (53, -1074), "F32": (24, -149), "BF16": (8, -133), "F16": (11, -24)}


def unit_in_last_place(values: Array, dtype: str) -> Array:
    """The distance from each float64 value to the next number of a dtype, float64."""
    import numpy as np

    bits, smallest = PRECISION[dtype]
    _, exponents = np.frexp(values)
    exponents = np.where(values == 0, smallest, exponents - bits)  # frexp gives zero the exponent of one half
    return np.asarray(np.ldexp(1.0, np.maximum(exponents, smallest)))


def float32_order(values: Array) -> Array:
    """float32 as int64 such that neighbours differ by one; both zeros are neighbours."""
    import numpy as np

    bits = np.ascontiguousarray(values).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF) - 1, bits)
