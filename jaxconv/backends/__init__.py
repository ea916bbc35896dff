"""Array backends of the head arithmetic: a handful of primitives each, one module each.

No framework is imported before it is chosen. A new backend is one new module with `open_backend(device)`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from typing import Any, Protocol

from jaxconv.checkpoint import Array
from jaxconv.errors import BackendUnavailable

DEVICES = ("auto", "cpu", "gpu", "tpu")
AUTO_ORDER = ("jax", "torch")


class Backend(Protocol):
    """Float32 arithmetic on one device. Every operation is IEEE float32, rounded once."""

    name: str
    device: str

    def put(self, x: Array) -> Any:
        """A float32 host array on the device."""
        ...

    def subtract(self, x: Any, y: Any) -> Any:
        """x - y, elementwise."""
        ...

    def multiply(self, x: Any, scale: float) -> Any:
        """x times a float32 scalar."""
        ...

    def get(self, x: Any) -> Array:
        """The device array as a float32 host array."""
        ...


def names() -> tuple[str, ...]:
    """The backends that exist, installed or not."""
    return tuple(sorted(entry.name for entry in pkgutil.iter_modules(__path__)))


def resolve_name(name: str) -> str:
    """The backend that `auto` means here; any other name is checked and returned.

    Raises `BackendUnavailable` for an unknown or missing backend, with the pip command.
    """
    if name == "auto":
        for candidate in AUTO_ORDER:
            if importlib.util.find_spec(candidate) is not None:
                return candidate
        raise BackendUnavailable(
            "neither jax nor torch is installed, and --backend auto wants one of them. "
            "Install one with: pip install 'jaxconv[jax]' or pip install 'jaxconv[torch]'; "
            "or use --backend numpy, which gives the same bytes."
        )
    if name not in names():
        raise BackendUnavailable(f"backend {name!r} is unknown; expected one of: auto, {', '.join(names())}.")
    if importlib.util.find_spec(name) is None:
        raise BackendUnavailable(
            f"backend {name!r} needs the package {name!r}, which is not installed. "
            f"Install it with: pip install 'jaxconv[{name}]'"
        )
    return name


def get_backend(name: str = "auto", device: str = "auto") -> Backend:
    """The backend on a device ("auto", "cpu", "gpu", "tpu").

    Raises `BackendUnavailable` when the framework or the device is not there.
    """
    if device not in DEVICES:
        raise BackendUnavailable(f"device {device!r} is unknown; expected one of: {', '.join(DEVICES)}.")
    chosen = resolve_name(name)
    try:
        backend: Backend = importlib.import_module(f"{__name__}.{chosen}").open_backend(device)
    except (ImportError, RuntimeError) as error:
        raise BackendUnavailable(
            f"backend {chosen!r} cannot use device {device!r}: {str(error).splitlines()[0]} "
            "Use --device cpu, or install the accelerator's build (jaxconv[tpu], jaxconv[cuda])."
        ) from error
    return backend
