"""Turns causal-LM rerankers into sequence classifiers that vLLM serves, exactly, with JAX or PyTorch.

    readers -> layouts -> families -> head (through a backend) -> writer -> bundle

`convert` and `convert_params` make an output, `inspect` says what `convert` would do, `verify` proves an output, and
`load` scores with it, and `push` uploads it. Everything raised on purpose is a `JaxconvError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from jaxconv.errors import (
    BackendUnavailable,
    JaxconvError,
    LayoutError,
    OutputError,
    ProcessError,
    RefusedError,
    SourceError,
    TokenError,
    TokensUnknown,
    UsageError,
    VerificationError,
)
from jaxconv.version import __version__

if TYPE_CHECKING:
    from jaxconv.conversion import ConversionResult, convert
    from jaxconv.inspection import inspect
    from jaxconv.live import convert_params
    from jaxconv.scoring import Ranked, Scorer, load
    from jaxconv.upload import Pushed, push
    from jaxconv.verification import Report, verify

# Imported on first use, so that `import jaxconv` stays cheap.
_MODULES = {
    "ConversionResult": "jaxconv.conversion",
    "Pushed": "jaxconv.upload",
    "Ranked": "jaxconv.scoring",
    "Report": "jaxconv.verification",
    "Scorer": "jaxconv.scoring",
    "convert": "jaxconv.conversion",
    "convert_params": "jaxconv.live",
    "inspect": "jaxconv.inspection",
    "load": "jaxconv.scoring",
    "push": "jaxconv.upload",
    "verify": "jaxconv.verification",
}

__all__ = [
    "BackendUnavailable",
    "ConversionResult",
    "JaxconvError",
    "LayoutError",
    "OutputError",
    "ProcessError",
    "Pushed",
    "Ranked",
    "RefusedError",
    "Report",
    "Scorer",
    "SourceError",
    "TokenError",
    "TokensUnknown",
    "UsageError",
    "VerificationError",
    "__version__",
    "convert",
    "convert_params",
    "inspect",
    "load",
    "push",
    "verify",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        value: object = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'jaxconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
