"""Sides of a pair that hold pictures, in a template: a string with marks, as vLLM hands it in, or a list of parts."""

from __future__ import annotations

import json

from jaxconv.errors import SourceError
from jaxconv.families import text_config
from jaxconv.families.row import Composite
from jaxconv.json_files import JsonObject
from jaxconv.text.tokenizer import Vocabulary

# A side as one string: its pictures, then its texts. vLLM has put the marks before the texts by itself.
SIDE = """\
{%- macro side(content) -%}
{%- if content is string -%}{{- content -}}{%- else -%}
{%- for part in content if part["type"] in ("image", "image_url") -%}{{- PICTURE -}}{%- endfor -%}
{%- for part in content if part["type"] == "text" -%}{{- part["text"] -}}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""
IMAGE_TOKENS = ("image_token_id", "image_token_index")


def side_macro(picture: str) -> str:
    """The macro `side`, which makes one string of a message's content.

    Args:
        picture: The text that stands for a picture.
    """
    return SIDE.replace("PICTURE", json.dumps(picture, ensure_ascii=False))


def picture_mark(composite: Composite | None, config: JsonObject, vocabulary: Vocabulary) -> str | None:
    """The text that stands for a picture in the prompts of a family; None for a family of text.

    Args:
        composite: How the family reads pictures; None for a family of text.
        config: The config.json.
        vocabulary: The tokenizer.

    Raises:
        SourceError: The config names no image token, or the tokenizer lacks it.
    """
    if composite is None:
        return None
    if composite.picture is not None:
        return composite.picture
    ids = [config.get(key) for key in IMAGE_TOKENS if config.get(key) is not None]
    piece = vocabulary.piece(ids[0]) if ids and type(ids[0]) is int else None
    if piece is None:
        raise SourceError(
            f"config.json has {ids[0] if ids else 'nothing'} as {IMAGE_TOKENS[0]}; expected the id of a token of the "
            f"tokenizer, which {text_config(config).get('model_type')} puts in the place of a picture."
        )
    return piece
