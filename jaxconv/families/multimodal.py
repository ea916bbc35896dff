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
INNER_SCORE = "language_model.score"
QWEN_TOWER, OLD_QWEN_TOWER = ("model.visual.",), ("visual.",)
LLAVA = (
    Spelling(
        "language_model.model.", "language_model.lm_head", INNER_SCORE, ("vision_tower.", "multi_modal_projector."),
    ),
    Spelling(
        "model.language_model.", score=INNER_SCORE, towers=("model.vision_tower.", "model.multi_modal_projector."),
    ),
)  # fmt: skip
IDEFICS3 = (Spelling("model.text_model.", towers=("model.vision_model.", "model.connector.")),)
DECODERS = {name: name for name in ("llama", "mistral", "qwen2", "qwen3")}
QWEN2_VL = (
    Spelling("model.", score=INNER_SCORE, towers=OLD_QWEN_TOWER),
    Spelling("model.language_model.", score=INNER_SCORE, towers=QWEN_TOWER),
)
QWEN2_VL_DEFAULTS = {
    "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
    "max_window_layers": 80,
}  # fmt: skip

COMPOSITES: Mapping[str, Composite] = {
    "qwen3_vl": Composite(
        "Qwen3VLForConditionalGeneration",
        {"qwen3_vl_text": "qwen3"},
        (Spelling("model.language_model.", towers=QWEN_TOWER),),
        ("Qwen3VLForSequenceClassification",),
        defaults={"max_position_embeddings": 128000, "rope_theta": 500000.0},
        picture=QWEN_PICTURE,
        interleaved=True,
    ),
    # Qwen3_5ForSequenceClassification alone is vLLM's text model, which refuses the tower.
    "qwen3_5": Composite(
        "Qwen3_5ForConditionalGeneration",
        {"qwen3_5_text": "qwen3_5_text"},
        (Spelling("model.language_model.", towers=QWEN_TOWER),),
        ("Qwen3_5ForConditionalGeneration", "Qwen3_5ForSequenceClassification"),
        picture=QWEN_PICTURE,
        interleaved=True,
    ),
    "qwen3_5_moe": Composite(
        "Qwen3_5MoeForConditionalGeneration",
        {"qwen3_5_moe_text": "qwen3_5_moe_text"},
        (Spelling("model.language_model.", towers=QWEN_TOWER),),
        ("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForSequenceClassification"),
        picture=QWEN_PICTURE,
        interleaved=True,
        served=False,
    ),
    "qwen2_5_vl": Composite(
        "Qwen2_5_VLForConditionalGeneration",
        {"qwen2_5_vl_text": "qwen2", "qwen2_5_vl": "qwen2"},
        QWEN2_VL,
        ("Qwen2_5_VLForSequenceClassification",),
        tied_at_top=False,
        defaults=QWEN2_VL_DEFAULTS,
        picture=QWEN_PICTURE,
    ),
    "qwen2_vl": Composite(
        "Qwen2VLForConditionalGeneration",
        {"qwen2_vl_text": "qwen2", "qwen2_vl": "qwen2"},
        QWEN2_VL,
        ("Qwen2VLForSequenceClassification",),
        tied_at_top=False,
        defaults=QWEN2_VL_DEFAULTS,
        picture=QWEN_PICTURE,
    ),
    # Gemma3ForSequenceClassification alone is vLLM's text model; behind the other name it makes a classifier of that.
    "gemma3": Composite(
        "Gemma3ForConditionalGeneration",
        {"gemma3_text": "gemma3_text"},
        LLAVA,
        ("Gemma3ForConditionalGeneration", "Gemma3ForSequenceClassification"),
        tied=True,
        picture="<start_of_image>",
    ),
    "llava": Composite(
        "LlavaForConditionalGeneration", DECODERS, LLAVA, ("LlavaForSequenceClassification",), tied_at_top=False
    ),
    "internvl": Composite(
        "InternVLForConditionalGeneration", DECODERS, LLAVA, ("InternVLForSequenceClassification",), tied=True
    ),
    "mistral3": Composite(
        "Mistral3ForConditionalGeneration", DECODERS, LLAVA, ("Mistral3ForSequenceClassification",), tied=True, served=False
    ),
    "idefics3": Composite(
        "Idefics3ForConditionalGeneration", {"llama": "llama"}, IDEFICS3, ("Idefics3ForSequenceClassification",)
    ),
    "smolvlm": Composite(
        "SmolVLMForConditionalGeneration", {"llama": "llama"}, IDEFICS3, ("SmolVLMForSequenceClassification",)
    ),
}

# Models of pictures and text that are known and have no row: model_type -> why.
UNPROVEN: Mapping[str, str] = {
    "qwen3_vl_moe": (
        "vLLM reads its experts' matrices as the hub's files have them, transformers 5 writes them transposed, and neither "
        "is proven here"
    ),
    "lfm2_vl": "its language model mixes convolutions with attention, and jaxconv has no table of that",
    "gemma4": "its language model has embeddings and shared keys of single layers, and jaxconv has no table of that",
    "gemma4_unified": "its language model has embeddings and shared keys of single layers, and jaxconv has no table of that",
    "gemma3n": "its language model keeps several streams of hidden states, and jaxconv has no table of that",
    "idefics2": "vLLM has no class of it",
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


def composite_of(config: JsonObject) -> Composite | None:
    """How a model reads pictures, whatever its head; None of a model of text.

    Args:
        config: The config.json of a causal LM or of a classifier.
    """
    return COMPOSITES.get(str(config.get("model_type")))
