"""MaxText's Llama 3.1 whatever the config says of its rope: nothing in a checkpoint tells, so it is only ever chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import LayoutError
from jaxconv.layouts import maxtext
from jaxconv.layouts._rules import apply_rules, axis_sizes

NAME = "maxtext-llama3.1"


def matches(checkpoint: Checkpoint) -> bool:
    """Never by itself."""
    return False


def to_hf(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    """Hugging Face names, shapes and values. Raises `LayoutError` for another family than Llama."""
    if config.get("model_type") != "llama":
        raise LayoutError(f"layout {NAME} is Llama's, and config.json has {config.get('model_type')}; use --layout maxtext.")
    return apply_rules(checkpoint, maxtext.rules(config, "llama3.1"), axis_sizes(config), NAME)
