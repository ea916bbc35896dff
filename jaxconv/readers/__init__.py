"""Stage 1: a checkpoint's container -> references to its tensors.

Every module of this package is one container and gives `FORMAT`, `PRIORITY` (where a folder holds several
formats the lowest wins), `matches(weights)` and `open(weights, step)`. The folder is the registry;
modules with a leading underscore are what several share.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import SourceError


class Reader(Protocol):
    """What every module of this package provides."""

    FORMAT: str
    PRIORITY: int

    def matches(self, weights: Path | str) -> bool:
        """Whether the content (never the name alone) is this container. Cheap, and never raises."""
        ...

    def open(self, weights: Path | str, step: int | None) -> Checkpoint:
        """References to all tensors. Raises `SourceError` for a damaged container."""
        ...


@cache
def readers() -> tuple[Reader, ...]:
    """All readers, those that win first."""
    found = (entry.name for entry in pkgutil.iter_modules(__path__) if not entry.name.startswith("_"))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in found]
    return tuple(sorted((cast(Reader, module) for module in modules), key=lambda reader: reader.PRIORITY))


def open_checkpoint(weights: Path | str, step: int | None = None) -> Checkpoint:
    """Opens the checkpoint at a local path or URI; `step` picks one of a checkpoint manager's.

    Raises `SourceError` when no reader knows it, naming what lies there.
    """
    for reader in readers():
        if reader.matches(weights):
            return reader.open(weights, step)
    raise SourceError(_unrecognised(weights))


def _unrecognised(weights: Path | str) -> str:
    expected = f"expected one of: {', '.join(reader.FORMAT for reader in readers())}"
    if not isinstance(weights, Path):
        return f"{weights} holds no checkpoint that jaxconv can read; {expected}. Check the address."
    names = sorted(entry.name for entry in weights.iterdir()) if weights.is_dir() else [weights.name]
    if not names:
        return f"{weights} is an empty folder; {expected}. Download or save the model there first."
    if any(name.startswith("adapter_") for name in names):
        return (
            f"{weights} holds only a PEFT adapter ({', '.join(n for n in names if n.startswith('adapter_'))}), "
            "not a model. Merge it into its base model first (peft: model.merge_and_unload()), then convert that."
        )
    return f"{weights} holds no weights that jaxconv can read (found: {', '.join(names[:12])}); {expected}."
