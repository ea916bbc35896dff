"""NumPy: the reference that the other backends must equal bit for bit."""

from __future__ import annotations

import numpy as np

from jaxconv.checkpoint import Array


class NumpyBackend:
    """Float32 arithmetic on the host."""

    name = "numpy"
    device = "cpu"

    def put(self, x: Array) -> Array:
        return x

    def subtract(self, x: Array, y: Array) -> Array:
        return np.subtract(x, y)

    def multiply(self, x: Array, scale: float) -> Array:
        return np.multiply(x, np.float32(scale))

    def get(self, x: Array) -> Array:
        return x


def open_backend(device: str) -> NumpyBackend:
    """The NumPy backend; it knows only the CPU."""
    if device not in ("auto", "cpu"):
        raise RuntimeError("NumPy computes on the CPU only.")
    return NumpyBackend()
