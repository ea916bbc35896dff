"""Causal-LM rerankers in, sequence classifiers that vLLM serves out; exact, in seconds, from JAX or PyTorch.

readers -> layouts -> families -> head (through a backend) -> writer -> bundle
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxconv.errors import JaxconvError
from jaxconv.version import __version__

if TYPE_CHECKING:
    from jaxconv.conversion import ConversionResult, convert
    from jaxconv.inspection import inspect
    from jaxconv.live import convert_params
    from jaxconv.scoring import Ranked, Scorer, load
    from jaxconv.verification import verify

_LAZY = {
    "ConversionResult": "jaxconv.conversion",
    "Ranked": "jaxconv.scoring",
    "Scorer": "jaxconv.scoring",
    "convert": "jaxconv.conversion",
    "convert_params": "jaxconv.live",
    "inspect": "jaxconv.inspection",
    "load": "jaxconv.scoring",
    "verify": "jaxconv.verification",
}

__all__ = [
    "ConversionResult", "JaxconvError", "Ranked", "Scorer", "__version__", "convert", "convert_params", "inspect", "load",
    "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'jaxconv' has no attribute {name!r}")
