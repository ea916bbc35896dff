"""config.json -> the sizes of Qwen3-VL's vision tower, and how its language model places pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxconv.errors import UsageError
from jaxconv.families import text_config
from jaxconv.json_files import JsonDict, JsonObject, is_finite_number

MODEL_TYPE = "qwen3_vl"
# What transformers takes an absent key for.
DEFAULTS: Mapping[str, object] = {
    "depth": 27, "hidden_size": 1152, "num_heads": 16, "in_channels": 3, "patch_size": 16, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "out_hidden_size": 3584, "num_position_embeddings": 2304, "hidden_act": "gelu_pytorch_tanh",
    "deepstack_visual_indexes": [8, 16, 24],
}  # fmt: skip
SECTIONS = [24, 20, 20]
IMAGE_TOKEN = 151655
ACTIVATIONS = ("gelu_pytorch_tanh", "gelu", "silu")


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """A vision tower, and the place of its pictures in the decoder.

    Attributes:
        depth: Its layers.
        hidden_size: The width of a patch.
        num_heads: Its attention heads.
        activation: That of its feed-forward layers.
        patch_numbers: The numbers of a patch: channels x frames x height x width.
        merge: Patches that become one token, on each side.
        side: The positions of its square table, on each side.
        rope_theta: The base of its rotations.
        deepstack: The layers whose features the decoder's first layers get, in the order in which they run.
        mergers: The number of the merger of each of them.
        sections: Frequencies of the decoder's rotations that follow time, height and width.
        image_token: The id of the token that stands for a piece of a picture.
    """

    depth: int
    hidden_size: int
    num_heads: int
    activation: str
    patch_numbers: int
    merge: int
    side: int
    rope_theta: float
    deepstack: tuple[int, ...]
    mergers: tuple[int, ...]
    sections: tuple[int, ...]
    image_token: int


def vision_config(config: JsonObject) -> VisionConfig:
    """The vision tower of a config.json.

    Args:
        config: The config.json of a Qwen3-VL.

    Raises:
        UsageError: It is another family's, or has options that the JAX model does not run.
    """
    reason = vision_unsupported(config)
    if reason is not None:
        raise UsageError(reason)
    vision = _vision(config)
    rope = vision.get("rope_parameters") or {}
    indexes = vision["deepstack_visual_indexes"]
    deepstack = [
        layer for layer in range(vision["depth"]) if layer in indexes
    ]  # transformers passes over layers that are not
    return VisionConfig(
        depth=vision["depth"],
        hidden_size=vision["hidden_size"],
        num_heads=vision["num_heads"],
        activation=vision["hidden_act"],
        patch_numbers=vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2,
        merge=vision["spatial_merge_size"],
        side=math.isqrt(vision["num_position_embeddings"]),
        rope_theta=float(rope.get("rope_theta", 10000.0)),
        deepstack=tuple(deepstack),
        mergers=tuple(map(indexes.index, deepstack)),
        sections=tuple(_sections(config)),
        image_token=config.get("image_token_id", IMAGE_TOKEN),
    )


def vision_unsupported(config: JsonObject) -> str | None:
    """Why the JAX model does not read the pictures of a model, with the next step; None if it does.

    Args:
        config: The config.json.
    """
    kind = config.get("model_type")
    if kind != MODEL_TYPE:
        return f"JAX scores the pictures of {MODEL_TYPE} and only pairs of text of {kind}. Use --backend torch for pictures."
    vision = _vision(config)
    wrong = [key for key, default in DEFAULTS.items() if not _has_form_of(vision[key], default)]
    if not wrong and vision["hidden_act"] not in ACTIVATIONS:
        wrong = ["hidden_act"]
    if wrong:
        value = vision[wrong[0]]
        return f"config.json has {value!r:.80} as vision_config.{wrong[0]}, which JAX does not run. Use --backend torch."
    if _rope(config).get("mrope_interleaved") is False:
        return "config.json has mrope_interleaved false, which JAX does not run. Use --backend torch."
    sections = _sections(config)
    if isinstance(sections, list) and any(type(size) is int and size < 0 for size in sections):
        return f"config.json has {sections!r:.80} as mrope_section, which JAX does not run. Use --backend torch."
    return _contradiction(config, vision)


def _has_form_of(value: object, default: object) -> bool:
    """Whether a value has the type of what transformers takes an absent key for; numbers start at 1."""
    return type(value) is type(default) and not (isinstance(value, int) and value < 1)


def _contradiction(config: JsonObject, vision: JsonObject) -> str | None:
    """What no class runs, transformers' included; None of a config that is sound."""
    hidden, heads, head_dim = vision["hidden_size"], vision["num_heads"], vision.get("head_dim")
    rope, sections = vision.get("rope_parameters"), _sections(config)
    if hidden % (4 * heads):
        finding = f"{heads} as vision_config.num_heads; expected hidden_size {hidden} in heads of a multiple of 4"
    elif head_dim not in (None, hidden // heads):
        finding = f"{head_dim!r:.80} as vision_config.head_dim; expected {hidden // heads} (hidden_size / num_heads)"
    elif not _is_axial(rope):
        finding = f'{rope!r:.80} as vision_config.rope_parameters; expected rope_type "axial" and a rope_theta above zero'
    elif not isinstance(sections, list) or len(sections) != 3 or any(type(size) is not int for size in sections):
        finding = f"{sections!r:.80} as mrope_section; expected three whole numbers"
    else:
        return None
    return (
        f"config.json has {finding}. Neither JAX nor transformers scores pictures with it: get the model's own config.json."
    )


def _is_axial(rope: object) -> bool:
    """Whether a tower's rotations are those of rows and columns, which transformers takes "default" for too."""
    if rope is None:
        return True
    if not isinstance(rope, dict) or rope.get("rope_type", "axial") not in ("axial", "default"):
        return False
    theta = rope.get("rope_theta", 10000.0)
    return is_finite_number(theta) and theta > 0


def _vision(config: JsonObject) -> JsonDict:
    stated = config.get("vision_config")
    return {**DEFAULTS, **(stated if isinstance(stated, dict) else {})}


def _sections(config: JsonObject) -> Any:
    """How the frequencies are shared among time, height and width, unchecked."""
    return _rope(config).get("mrope_section", SECTIONS)


def _rope(config: JsonObject) -> JsonObject:
    """The rotations of the language model, in either spelling."""
    text = text_config(config)
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    return rope if isinstance(rope, dict) else {}
