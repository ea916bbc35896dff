"""What the caller should know of a source that reads pictures: where a server would refuse or lose one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from jaxconv.families import Family, text_config
from jaxconv.json_files import JsonObject
from jaxconv.text.prompt import render

GEMMA_PICTURE = "<start_of_image>"


def picture_notes(family: Family, config: JsonObject, template: str) -> Iterator[str]:
    """Sentences for the summary and the card; none of a family of text.

    Args:
        family: The family, in the spelling of the tensors.
        config: The config.json.
        template: The template that vLLM takes.
    """
    if family.composite is None:
        return
    if not family.composite.served:
        yield (
            f"vLLM was not run with {family.architecture}: where it looks for the score row was read in its code. Compare a "
            "server with `jaxconv verify --against-vllm`."
        )
    text = text_config(config)
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    interleaved = isinstance(rope, dict) and rope.get("mrope_interleaved") is True
    if family.composite.interleaved and not interleaved:
        yield (
            "config.json has no mrope_interleaved true beside mrope_section. transformers' class interleaves the positions "
            "of pictures in any case and vLLM only then: it would score pictures wrongly. Set it in the source's config.json."
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
