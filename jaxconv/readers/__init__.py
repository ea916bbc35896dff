"""Stage 1: a checkpoint's container -> references to its tensors.

Every module of this package reads one container and has `FORMAT`, `PRIORITY` (of several formats in one directory the lowest
wins), `HAS_STEPS` (whether a root holds several steps), `matches(weights)` and `open(weights, step)`. The package's directory
is the registry; modules with a leading underscore are shared by several readers.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import SourceError, UsageError
from jaxconv.file_errors import reading
from jaxconv.readers._beside import NOT_APPLIED, notes_on_neighbours
from jaxconv.readers._directories import explain, merge_zero

__all__ = ["NOT_APPLIED", "Reader", "explain", "merge_zero", "open_checkpoint", "readers"]


class Reader(Protocol):
    """What every module of this package provides."""

    FORMAT: str
    PRIORITY: int
    HAS_STEPS: bool

    def matches(self, weights: Path | str) -> bool:
        """Whether the content of `weights`, a path or a URI, is this container; a name alone never counts.

        Cheap, and never raises.
        """
        ...

    def open(self, weights: Path | str, step: int | None) -> Checkpoint:
        """References to all tensors.

        Args:
            weights: The directory or the URI.
            step: The step to read, for containers that hold several; the newest if None.

        Raises:
            SourceError: The container is damaged.
        """
        ...


@cache
def readers() -> tuple[Reader, ...]:
    """All readers, by priority."""
    names = (entry.name for entry in pkgutil.iter_modules(__path__) if not entry.name.startswith("_"))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return tuple(sorted((cast(Reader, module) for module in modules), key=lambda reader: reader.PRIORITY))


def open_checkpoint(weights: Path | str, step: int | None = None) -> Checkpoint:
    """Opens the checkpoint at a local path or URI.

    Args:
        weights: The directory or the URI.
        step: The step of a checkpoint manager's root; the newest if None.

    Returns:
        References to the tensors, with a note on everything that lies beside them and is not read.

    Raises:
        SourceError: No reader recognises the container, or it is damaged. The message says what lies there.
        UsageError: A step was named of a container that has none.
    """
    with reading(Path(weights)):  # a directory in it may be one that cannot be listed
        return _opened(weights, step)


def _opened(weights: Path | str, step: int | None) -> Checkpoint:
    for reader in readers():
        if reader.matches(weights):
            if step is not None and not reader.HAS_STEPS:
                raise UsageError(
                    f"--step {step}: {weights} holds one checkpoint ({reader.FORMAT}), not a manager's steps. "
                    "Name the directory of the step that you mean, without --step."
                )
            checkpoint = reader.open(weights, step)
            beside = notes_on_neighbours(weights, checkpoint) if _has_neighbours(weights, checkpoint) else ()
            return replace(checkpoint, notes=(*checkpoint.notes, *beside))
    raise SourceError(_unrecognised(weights))


def _has_neighbours(weights: Path | str, checkpoint: Checkpoint) -> bool:
    """Whether other files may lie beside the weights; among the steps of a bucket nobody looks for them."""
    return weights.is_dir() if isinstance(weights, Path) else checkpoint.format.endswith("safetensors")


def _unrecognised(weights: Path | str) -> str:
    expected = f"expected one of: {', '.join(reader.FORMAT for reader in readers())}"
    if not isinstance(weights, Path):
        return f"{weights} holds no checkpoint that jaxconv can read; {expected}. Check the address."
    explanation = explain(weights)
    if explanation is not None:
        return explanation
    names = sorted(entry.name for entry in weights.iterdir()) if weights.is_dir() else [weights.name]
    if not names:
        return f"{weights} is an empty directory; {expected}. Download or save the model there first."
    return f"{weights} holds no weights that jaxconv can read (it has {', '.join(names[:12])}); {expected}."
