"""The families that read pictures beside text, as data. Proven against transformers' own models in tests/families.

Where the row goes and which entries of `architectures` keep the pictures is vLLM 0.32's: a name that ends in
ForSequenceClassification is looked up as ForCausalLM first, which loses the pictures where that exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jaxconv.families.family import text_config
from jaxconv.families.row import Composite, Row, Spelling
from jaxconv.families.table import FAMILIES
from jaxconv.json_files import JsonObject

QWEN_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"

COMPOSITES: Mapping[str, Composite] = {
    "qwen3_vl": Composite(
        "Qwen3VLForConditionalGeneration",
        {"qwen3_vl_text": "qwen3"},
        (Spelling("model.language_model.", towers=("model.visual.",)),),
        ("Qwen3VLForSequenceClassification",),
        defaults={"max_position_embeddings": 128000, "rope_theta": 500000.0},
        picture=QWEN_PICTURE,
    ),
}


def composite_row(composite: Composite, text: str) -> Row:
    """The row of a composite: its language model's, under the composite's names.

    Args:
        composite: The family.
        text: The row of its language model.
    """
    row = FAMILIES[text]
    return replace(
        row,
        architecture=composite.architecture,
        spellings=composite.spellings,
        target=composite.architectures[-1],
        tied=composite.tied,
        accepts=(),
        defaults={**row.defaults, **composite.defaults},
        transformers_seq_cls=False,
    )


def language_model(config: JsonObject) -> JsonObject:
    """The language model's part of `config`, a config.json; of a composite with the model_type of the row of its tensors."""
    text, composite = text_config(config), COMPOSITES.get(str(config.get("model_type")))
    row = None if composite is None else composite.texts.get(str(text.get("model_type")))
    return text if composite is None or row is None else {**composite.defaults, **text, "model_type": row}
