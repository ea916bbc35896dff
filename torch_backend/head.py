"""Head arithmetic on PyTorch tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class TorchBackend:
    """Float32 arithmetic on one torch device."""

    name = "torch"

    def __init__(self, device: str) -> None:
        self.device = device

    def put(self, x: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.device)

    def subtract(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.subtract(x, y)

    def multiply(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.multiply(x, torch.full((1,), scale, dtype=torch.float32, device=self.device))

    def get(self, x: torch.Tensor) -> NDArray[Any]:
        return x.cpu().numpy()


def open_backend(device: str) -> TorchBackend:
    """The backend on a device: "auto" (CUDA where there is one), "cpu" or "gpu". `RuntimeError` without it."""
    if device == "tpu":
        raise RuntimeError("PyTorch has no TPU device here; the JAX backend has.")
    if device == "gpu" and not torch.cuda.is_available():
        raise RuntimeError("torch.cuda finds no GPU.")
    return TorchBackend("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
