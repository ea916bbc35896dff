"""What the caller should know of a source that reads pictures: where a server would refuse or lose one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from jaxconv.families import Family
from jaxconv.json_files import JsonObject
from jaxconv.text.prompt import render

# Towers whose tensors vLLM 0.32 looks for under one more name, as the hub's files have them and transformers 5 does not.
RENAMED_TOWERS = ("clip_vision_model", "siglip_vision_model")
INNER = "vision_model."
GEMMA_PICTURE = "<start_of_image>"


def picture_notes(family: Family, config: JsonObject, names: Collection[str], template: str) -> Iterator[str]:
    """Sentences for the summary and the card; none of a family of text.

    Args:
        family: The family, in the spelling of the tensors.
        config: The config.json.
        names: The names of the tensors.
        template: The template that vLLM takes.
    """
    if family.composite is None:
        return
    if not family.composite.served:
        yield (
            f"vLLM was not run with {family.architecture}: where it looks for the score row was read in its code. Compare a "
            "server with `jaxconv verify --against-vllm`."
        )
    vision = config.get("vision_config")
    tower = family.towers[0]
    renamed = isinstance(vision, dict) and vision.get("model_type") in RENAMED_TOWERS
    if renamed and not any(name.startswith(tower + INNER) for name in names):
        yield (
            f"the vision tower has the names that transformers 5 writes ({tower}encoder.…), and vLLM 0.32 refuses to start "
            f"without {tower}{INNER}encoder.…, the names of the hub's files. Convert a source with those names."
        )
    if family.composite.picture == GEMMA_PICTURE and _ends_in_one_newline(template):
        yield (
            "the template puts exactly one newline after the query or document, where vLLM loses a picture of Gemma 3 that "
            'no text follows ("found 0 prompt placeholders"). Send text with every picture, or use two newlines.'
        )


def _ends_in_one_newline(template: str) -> bool:
    """Whether a side that is a picture alone is followed by one newline: the picture's own and that one are one token."""
    texts = (render(template, GEMMA_PICTURE, "x"), render(template, "x", GEMMA_PICTURE))
    return any(re.search(re.escape(GEMMA_PICTURE) + r"\n(?!\n)", text) for text in texts)
