"""Stage 2: foreign tensor names, shapes and values -> Hugging Face names. One module a layout.

A layout module gives `NAME`, `matches(checkpoint)` and `to_hf(checkpoint, config)`; the folder is the
registry; modules with a leading underscore are what several share.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol, cast

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import LayoutError, UsageError


class Layout(Protocol):
    """What every module of this package provides."""

    NAME: str

    def matches(self, checkpoint: Checkpoint) -> bool:
        """Whether the tensor names are of this layout."""
        ...

    def to_hf(self, checkpoint: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
        """The same tensors under Hugging Face names, changed when read. Raises `LayoutError`."""
        ...


@cache
def layouts() -> Mapping[str, Layout]:
    """All layouts by name."""
    found = (entry.name for entry in pkgutil.iter_modules(__path__) if not entry.name.startswith("_"))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in found]
    return {module.NAME: cast(Layout, module) for module in modules}


def detect(checkpoint: Checkpoint) -> str:
    """The layout of a checkpoint by its names. Raises `LayoutError` when none or several fit."""
    found = [name for name, layout in layouts().items() if layout.matches(checkpoint)]
    if len(found) != 1:
        shown = ", ".join(list(checkpoint.tensors)[:5])
        raise LayoutError(
            f"{checkpoint.path} ({checkpoint.format}) has names that {'several layouts' if found else 'no layout'} "
            f"explain{'' if found else 's'}: {shown}. Expected one of: {', '.join(layouts())}; choose with --layout."
        )
    return found[0]


def to_hf(checkpoint: Checkpoint, config: Mapping[str, Any], layout: str | None = None) -> tuple[str, Checkpoint]:
    """The layout's name and the tensors under Hugging Face names.

    Raises `UsageError` for an unknown layout, `LayoutError` for names or shapes that it does not explain.
    """
    if layout is not None and layout not in layouts():
        raise UsageError(f"layout {layout!r} is unknown; expected one of: {', '.join(layouts())}.")
    chosen = layout or detect(checkpoint)
    return chosen, layouts()[chosen].to_hf(checkpoint, config)
