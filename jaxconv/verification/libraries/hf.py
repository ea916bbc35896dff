"""Hugging Face's own names, with the prefixes that the same tensors have in files of other classes."""

from __future__ import annotations

from collections.abc import Iterator

from jaxconv.json_files import JsonObject
from jaxconv.verification.libraries._place import Place

LAYOUTS = ("hf",)
# Prefix of a classifier's name -> what transformers puts there in other classes that hold the same language model.
PREFIXES = {
    "model.": ("", "model.language_model.", "language_model.model.", "language_model.", "model.text_model."),
    "lm_head.": ("language_model.lm_head.", "model.language_model.lm_head."),
    # CLIP and SigLIP: transformers 5 writes the level of the tower's own class no more
    "vision_tower.vision_model.": ("vision_tower.",),
    "model.vision_tower.vision_model.": ("model.vision_tower.",),
}


def places(name: str, config: JsonObject, layout: str) -> Iterator[Place]:
    """The `name` itself, then the other prefixes; the same for every `config` and `layout`."""
    yield Place(name)
    for prefix, others in PREFIXES.items():
        if name.startswith(prefix):
            yield from (Place(other + name.removeprefix(prefix)) for other in others)
