"""Head arithmetic on PyTorch tensors, and which device "auto", "cpu" and "gpu" mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class TorchArithmetic:
    """Float32 arithmetic on one torch device."""

    def __init__(self, device: str) -> None:
        self.device = torch_device(device)

    def put(self, x: NDArray[Any]) -> torch.Tensor:
        """Copies the float32 host array `x` to the device."""
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.device)

    def subtract(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x - y, elementwise."""
        return torch.subtract(x, y)

    def multiply(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """The tensor `x` times the float32 scalar `scale`."""
        return torch.multiply(x, torch.full((1,), scale, dtype=torch.float32, device=self.device))

    def get(self, x: torch.Tensor) -> NDArray[Any]:
        """Copies the device tensor `x` to a float32 host array."""
        return x.cpu().numpy()


def torch_device(device: str) -> str:
    """The torch device of "auto" (CUDA if available), "cpu" or "gpu". Raises `RuntimeError` if it is not available."""
    if device == "tpu":
        raise RuntimeError("PyTorch has no TPU device here; the JAX backend has.")
    if device == "gpu" and not torch.cuda.is_available():
        raise RuntimeError("torch.cuda finds no GPU.")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
