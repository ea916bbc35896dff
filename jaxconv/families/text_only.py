"""The language model of a composite as a model of its own: its config.json, and the checkpoint without towers.

With no picture the three position streams of M-RoPE are equal, so its sections drop out, and nothing of a tower is added to
the hidden states: transformers' modeling files of the families in `multimodal.py`.
"""

from __future__ import annotations

from dataclasses import replace

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import UsageError
from jaxconv.families.family import Family, text_config
from jaxconv.families.multimodal import language_model
from jaxconv.families.table import FAMILIES
from jaxconv.families.tensors import tie_word_embeddings
from jaxconv.json_files import JsonDict, JsonObject

# Keys of the top level that a language model's config has too; `text_config` wins where it has them.
SHARED = (
    "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "transformers_version",
    "quantization_config", "compression_config",
)  # fmt: skip
# What keys of pictures begin with in configs that have no `text_config`.
PICTURES = ("vision_", "image_", "video_")
ROPE = ("rope_parameters", "rope_scaling")
MROPE = ("mrope_section", "mrope_interleaved")


def text_only_config(config: JsonObject, family: Family) -> JsonDict:
    """The config.json of the language model alone, as the class of its own family has it.

    Args:
        config: The config.json of a composite.
        family: Its family.

    Raises:
        UsageError: The family reads text alone.
        SourceError: `tie_word_embeddings` is neither true nor false.
        RefusedError: Loaders disagree on `tie_word_embeddings`.
    """
    if family.composite is None:
        raise UsageError(
            f"--text-only takes the language model out of a model that reads pictures beside text, and {family.architecture} "
            "reads text alone. Leave it out."
        )
    text = text_config(config)
    kept = {key: config[key] for key in SHARED if key in config}
    kept |= {key: value for key, value in language_model(config).items() if text is not config or not _of_pictures(key)}
    ropes: dict[str, JsonObject] = {key: kept[key] for key in ROPE if isinstance(kept.get(key), dict)}
    if any("rope_theta" in rope for rope in ropes.values()) and "rope_theta" not in text:
        kept.pop("rope_theta", None)  # the family's default
    kept |= {key: _plain_rope(rope) for key, rope in ropes.items()}
    return kept | {
        "architectures": [FAMILIES[str(kept["model_type"])].architecture],
        "tie_word_embeddings": tie_word_embeddings(family, config)[0],
    }


def without_towers(checkpoint: Checkpoint, family: Family) -> Checkpoint:
    """The tensors of the language model alone, under the names that they have, and a note that says what was left out.

    Args:
        checkpoint: The tensors of a composite.
        family: Its family, in the spelling of these tensors.
    """
    tensors = {name: ref for name, ref in checkpoint.tensors.items() if not family.passes_through(name)}
    note = (
        f"text only: the language model of {family.architecture} is converted, {len(checkpoint.tensors) - len(tensors)} "
        f"tensors ({', '.join(f'{tower}*' for tower in family.towers)}) are left out. The output takes pairs of text and no "
        "pictures."
    )
    return replace(checkpoint, tensors=tensors, notes=(*checkpoint.notes, note))


def _of_pictures(key: str) -> bool:
    return key.startswith(PICTURES)


def _plain_rope(rope: JsonObject) -> JsonDict | None:
    """The rotations without the sections of M-RoPE; None where nothing is left to say."""
    plain = {key: value for key, value in rope.items() if key not in MROPE}
    plain |= {key: "default" for key in ("type", "rope_type") if plain.get(key) == "mrope"}
    only_type = plain.keys() <= {"type", "rope_type"} and set(plain.values()) <= {"default"}
    return None if only_type else plain
