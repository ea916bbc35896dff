"""NumPy: the reference arithmetic that the other backends must equal bit for bit. It runs no models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxconv.backends import DeviceMesh
from jaxconv.checkpoint import Array, Checkpoint
from jaxconv.errors import BackendUnavailable
from jaxconv.json_files import JsonObject
from jaxconv.pictures import PictureArrays

PACKAGES = MODEL_PACKAGES = ("numpy",)
REASON = "backend 'numpy' computes heads but runs no models; use --backend jax or --backend torch."


def unsupported(config: JsonObject) -> str | None:
    """NumPy runs no model, whatever its `config`."""
    return REASON


def pictures_unsupported(config: JsonObject) -> str | None:
    """NumPy runs no model, whatever its `config`."""
    return REASON


class NumpyBackend:
    """Float32 arithmetic on the host."""

    name = "numpy"
    device = "cpu"
    unsupported = staticmethod(unsupported)

    def put(self, x: Array) -> Array:
        """The array `x` itself: host and device are one."""
        return x

    def subtract(self, x: Array, y: Array) -> Array:
        """x - y, elementwise."""
        return np.subtract(x, y)

    def multiply(self, x: Array, scale: float) -> Array:
        """`x` times the float32 scalar `scale`."""
        return np.multiply(x, np.float32(scale))

    def get(self, x: Array) -> Array:
        """The array `x` itself."""
        return x

    def classifier(self, directory: Path, *, dtype: str = "float32", mesh: DeviceMesh | None = None) -> NoReturn:
        """Raises `BackendUnavailable` whatever `directory`, `dtype` and `mesh` are: NumPy runs no model."""
        raise BackendUnavailable(REASON)

    def hidden_states(
        self,
        checkpoint: Checkpoint,
        config: JsonObject,
        token_ids: Sequence[Sequence[int]],
        pictures: Sequence[PictureArrays] = (),
    ) -> NoReturn:
        """Raises `BackendUnavailable` whatever `checkpoint`, `config`, `token_ids` and `pictures` are."""
        raise BackendUnavailable(REASON)

    def causal_logits(
        self,
        checkpoint: Checkpoint,
        config: JsonObject,
        token_ids: Sequence[Sequence[int]],
        answers: Sequence[int],
        pictures: Sequence[PictureArrays] = (),
    ) -> NoReturn:
        """Raises `BackendUnavailable` whatever `checkpoint`, `config`, `token_ids`, `answers` and `pictures` are."""
        raise BackendUnavailable(REASON)


def open_backend(device: str) -> NumpyBackend:
    """The NumPy backend. Raises `RuntimeError` for any device but the CPU."""
    if device not in ("auto", "cpu"):
        raise RuntimeError("NumPy computes on the CPU only.")
    return NumpyBackend()
