"""PyTorch, handed on from `torch_backend`."""

from torch_backend.head import open_backend

__all__ = ["open_backend"]
