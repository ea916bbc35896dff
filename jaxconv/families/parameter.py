"""What a family knows of one parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a model: its shape as the plain model has it, and the kind of module that it belongs to."""

    shape: tuple[int, ...]
    kind: Literal["linear", "embedding", "norm", "other"]
