"""Pictures in a query or a document: where they come from, what a prompt has of them, and what a model is given.

A pair's side is a string or an object with pictures. As in vLLM it becomes one string, a mark for every picture and then
its texts; transformers' processor makes token ids and numbers of the rendered prompt and the pictures.
"""

from __future__ import annotations

from jaxconv.pictures.encoding import EncodedPrompt, SideEncoder
from jaxconv.pictures.loading import Picture, PictureAccess
from jaxconv.pictures.processor import (
    PictureArrays,
    PictureInputs,
    PictureProcessor,
    missing_packages,
    recorded_limits,
)
from jaxconv.pictures.side import Side, SideLike, SideText, check_side, entries_of, side_of, text_of

__all__ = [
    "EncodedPrompt", "Picture", "PictureAccess", "PictureArrays", "PictureInputs", "PictureProcessor", "Side", "SideEncoder",
    "SideLike", "SideText", "check_side", "entries_of", "missing_packages", "recorded_limits", "side_of", "text_of",
]  # fmt: skip
