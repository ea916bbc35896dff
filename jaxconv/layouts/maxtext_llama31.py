"""MaxText's Llama 3.1 without regard to the config's rope type. A checkpoint does not record it, so it is never detected."""

from __future__ import annotations

from jaxconv.checkpoint import Checkpoint, TensorRef
from jaxconv.errors import LayoutError
from jaxconv.json_files import JsonObject
from jaxconv.layouts import maxtext
from jaxconv.layouts._rules import apply_rules, axis_sizes, undo_rules

NAME = "maxtext-llama3.1"


def matches(checkpoint: Checkpoint) -> bool:
    """Always false, whatever `checkpoint` holds: only --layout selects this layout."""
    return False


def to_hf(checkpoint: Checkpoint, config: JsonObject) -> Checkpoint:
    """The tensors under Hugging Face names, in their shapes and with their values.

    Args:
        checkpoint: The checkpoint as its reader opened it.
        config: The language model's config.

    Raises:
        LayoutError: The family is not Llama, or a tensor does not fit the table.
    """
    if config.get("model_type") != "llama":
        raise LayoutError(f"layout {NAME} is Llama's, and config.json has {config.get('model_type')}; use --layout maxtext.")
    return apply_rules(checkpoint, maxtext.rules(config, "llama3.1"), axis_sizes(config), NAME)


def inverse(output: Checkpoint, raw: Checkpoint, config: JsonObject) -> dict[str, TensorRef]:
    """See `jaxconv.layouts.from_hf`.

    Args:
        output: Tensors under Hugging Face names.
        raw: The source as its reader opened it.
        config: The language model's config.

    Raises:
        LayoutError: `output` has only some of the parts of a raw tensor.
    """
    return undo_rules(output, raw, maxtext.rules(config, "llama3.1"), axis_sizes(config))
