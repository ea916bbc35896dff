"""Stage 2: foreign tensor names, shapes and values -> Hugging Face names. One module a layout.

A layout module has `NAME`, `matches`, `to_hf` and `inverse`. The package's directory is the registry; modules with a leading
underscore are shared by several layouts.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Protocol, cast

from jaxconv.checkpoint import Checkpoint, TensorRef
from jaxconv.errors import LayoutError, UsageError
from jaxconv.json_files import JsonObject
from jaxconv.layouts import hf


class Layout(Protocol):
    """What every module of this package provides."""

    NAME: str

    def matches(self, checkpoint: Checkpoint) -> bool:
        """Whether the tensor names of `checkpoint` are of this layout. The container's format may count too."""
        ...

    def to_hf(self, checkpoint: Checkpoint, config: JsonObject) -> Checkpoint:
        """The same tensors under Hugging Face names, changed when read.

        Args:
            checkpoint: The checkpoint as its reader opened it.
            config: The language model's config.

        Raises:
            LayoutError: The layout does not explain a name or a shape.
        """
        ...

    def inverse(self, output: Checkpoint, raw: Checkpoint, config: JsonObject) -> dict[str, TensorRef]:
        """The inverse of `to_hf`; see `from_hf`.

        Args:
            output: Tensors under Hugging Face names.
            raw: The source as its reader opened it.
            config: The language model's config.

        Returns:
            Tensors by their name in `raw`, in its shapes.
        """
        ...


@cache
def layouts() -> Mapping[str, Layout]:
    """All layouts by name."""
    names = (entry.name for entry in pkgutil.iter_modules(__path__) if not entry.name.startswith("_"))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {module.NAME: cast(Layout, module) for module in modules}


def detect(checkpoint: Checkpoint) -> str:
    """The layout of a checkpoint by its names.

    Args:
        checkpoint: The checkpoint as its reader opened it.

    Returns:
        The layout's name.

    Raises:
        LayoutError: No layout fits, or several do.
    """
    fitting = [name for name, layout in layouts().items() if layout.matches(checkpoint)]
    if len(fitting) != 1:
        shown = ", ".join(list(checkpoint.tensors)[:5])
        problem = f"names that fit several layouts ({', '.join(fitting)})" if fitting else "names that fit no layout"
        raise LayoutError(
            f"{checkpoint.path} ({checkpoint.format}) has {problem}: {shown}. "
            f"Expected one of: {', '.join(layouts())}; choose with --layout."
        )
    return fitting[0]


def to_hf(
    checkpoint: Checkpoint, config: JsonObject, layout: str | None = None, embedding: str = hf.EMBEDDING
) -> tuple[str, Checkpoint]:
    """The layout's name and the tensors under Hugging Face names.

    Args:
        checkpoint: The checkpoint as its reader opened it.
        config: The language model's config.
        layout: The layout; detected if None.
        embedding: What the model's family calls the input embedding. Names of PyTorch containers stay as they are where it
            is another one than most families have and the checkpoint has it.

    Raises:
        LayoutError: The layout does not explain a name or a shape.
        UsageError: There is no such layout.
    """
    if layout is not None and layout not in layouts():
        raise UsageError(f"layout {layout!r} is unknown; expected one of: {', '.join(layouts())}.")
    layout = layout or detect(checkpoint)
    if layout == hf.NAME and embedding != hf.EMBEDDING and embedding in checkpoint.tensors:
        hf.check_not_empty(checkpoint)
        return layout, checkpoint
    return layout, layouts()[layout].to_hf(checkpoint, config)


def from_hf(layout: str, output: Checkpoint, raw: Checkpoint, config: JsonObject) -> dict[str, TensorRef]:
    """The inverse of `to_hf`: an output's tensors as the source's container stores them.

    Args:
        layout: The name of the layout.
        output: Tensors under Hugging Face names, as an output holds them.
        raw: The source as its reader opened it. Its names and shapes say how the container is arranged (stacked layers,
            heads as axes, prefixes); no tensor of it is read.
        config: The language model's config.

    Returns:
        Tensors by their name in `raw`, in the dtype of `output` and computed when read. A raw tensor of which `output` has
        no part (a LM head, a buffer) has no entry. A padded vocabulary comes without its padding, so compare with the
        first rows of the raw tensor.

    Raises:
        LayoutError: `output` has some of the parts of a raw tensor and lacks others.
    """
    return layouts()[layout].inverse(output, raw, config)
