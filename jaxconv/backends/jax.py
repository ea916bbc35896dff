"""JAX on TPU, GPU or CPU."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.checkpoint import Array


class JaxBackend:
    """Float32 arithmetic on one JAX device. Operations run one by one, so that nothing fuses into an FMA."""

    name = "jax"

    def __init__(self, device: Any) -> None:
        self._device = device
        self.device: str = device.platform

    def put(self, x: Array) -> Any:
        return jax.device_put(x, self._device)

    def subtract(self, x: Any, y: Any) -> Any:
        return jnp.subtract(x, y)

    def multiply(self, x: Any, scale: float) -> Any:
        return jnp.multiply(x, self.put(np.full((1,), scale, np.float32)))

    def get(self, x: Any) -> Array:
        return np.asarray(jax.device_get(x))


def open_backend(device: str) -> JaxBackend:
    """The backend on JAX's default device, or the first local one of the platform asked for."""
    return JaxBackend(jax.local_devices(backend=None if device == "auto" else device)[0])
