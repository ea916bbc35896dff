"""The prompt that the caller or a preset gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jaxconv.presets import Preset
from jaxconv.text.prompt import PLAIN, Prompt, user_prompt, vllm_template


def prompt_for(
    preset: Preset | None,
    template: str | None,
    special_tokens: Mapping[str, str] | None = None,
    picture: str | None = None,
) -> Prompt:
    """The prompt of a user's template text or of a preset; without both the plain pair, marked as not known.

    Args:
        preset: The preset of the source.
        template: The text of a template file.
        special_tokens: The special tokens by name that a template may read.
        picture: The text that stands for a picture, of models that read pictures.
    """
    if template is not None:
        prompt = user_prompt(template, special_tokens or {}, picture=picture)
        return replace(prompt, origin="--template", written=template)
    if preset is None or preset.template is None:
        return Prompt(vllm_template(PLAIN, picture=picture), known=False)
    text = vllm_template(preset.template, preset.instruction, picture)
    # The caveat of a preset of pictures is about pictures.
    caveat = None if picture is None and preset.pixels is not None else preset.caveat
    return Prompt(text, instruction=preset.instruction, max_length=preset.max_length, caveat=caveat, origin="preset")
