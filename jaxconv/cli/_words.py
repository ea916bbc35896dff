"""Options that take one of a few words: the words, the spellings that people type, and what a shell completes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer

from jaxconv.activation import SELECTABLE
from jaxconv.arguments import did_you_mean

METHODS = ("from_2_way_softmax", "no_post_processing")
BACKENDS = ("auto", "jax", "torch", "numpy")
DEVICES = ("auto", "cpu", "gpu", "tpu")
DTYPES = ("float32", "bfloat16", "float16")
ACTIVATIONS = ("auto", *SELECTABLE)
COPY_MODES = ("copy", "link", "reflink")

# What people type -> the word that the API takes.
ALIASES = {
    "bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "cuda": "gpu", "hardlink": "link",
    "pytorch": "torch",
}  # fmt: skip


def one_of(words: Sequence[str]) -> dict[str, Any]:
    """The arguments of `typer.Option` for an option that takes one of these words.

    Args:
        words: The words that the API takes.
    """

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return {"parser": _parser(words), "metavar": "|".join(words), "autocompletion": complete}


def _parser(words: Sequence[str]) -> Callable[[str], str]:
    def parse(typed: str) -> str:
        word = typed.strip().lower()
        word = ALIASES.get(word, word)
        word = next((known for known in words if known.replace("_", "-") == word.replace("_", "-")), word)
        if word not in words:
            raise typer.BadParameter(f"{typed!r} is unknown; expected one of: {', '.join(words)}.{did_you_mean(word, words)}")
        return word

    return parse


def complete_presets(incomplete: str) -> list[str]:
    """The presets that convert and whose names begin with what was typed.

    Args:
        incomplete: What was typed.
    """
    from jaxconv.presets import presets

    return [preset.name for preset in presets() if not preset.refusal and preset.name.startswith(incomplete)]
