"""Where JAX libraries keep Hugging Face tensors, written from the libraries' own loaders: Hugging Face -> library.

The conversion reads `jaxconv/layouts`, which goes the other way. The two are kept apart on purpose: a mistake in one table is
found by the other. Every module names its `LAYOUTS` and gives `places(name, config, layout)`; the folder is the registry.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Protocol, cast

from jaxconv.json_files import JsonObject
from jaxconv.verification.libraries._place import Place, axis_sizes

__all__ = ["Library", "Place", "axis_sizes", "libraries"]


class Library(Protocol):
    """What every module of this package provides."""

    LAYOUTS: tuple[str, ...]

    def places(self, name: str, config: JsonObject, layout: str) -> Iterator[Place]:
        """The places where checkpoints of a layout may keep the Hugging Face tensor `name`, those looked at first first."""
        ...


@cache
def libraries() -> Mapping[str, Library]:
    """The modules by the layouts that they describe."""
    names = (entry.name for entry in pkgutil.iter_modules(__path__) if not entry.name.startswith("_"))
    modules = [cast(Library, importlib.import_module(f"{__name__}.{name}")) for name in names]
    return {layout: module for module in modules for layout in module.LAYOUTS}
