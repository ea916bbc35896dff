"""Config -> family, by the table or by structure, or the reason why it is refused."""

from __future__ import annotations

from jaxconv.errors import RefusedError
from jaxconv.families.by_proof import proof_family
from jaxconv.families.family import Family, text_config
from jaxconv.families.multimodal import COMPOSITES, UNPROVEN, composite_row
from jaxconv.families.refusals import REFUSED
from jaxconv.families.row import Row
from jaxconv.families.table import FAMILIES
from jaxconv.families.table_family import TableFamily
from jaxconv.json_files import JsonObject

KNOWN = f"Known model types: {', '.join(FAMILIES)}."


# Classes that training runs put around a model and save as its architecture.
WRAPPERS = ("OptimizedModule", "DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine", "DataParallel")
# Composites that never slide a window, though their plain family can.
WITHOUT_WINDOWS = ("qwen3_vl",)


def family_for(config: JsonObject) -> Family:
    """The family of a config.json: a row of the table, else one whose conversions have to be proven.

    Args:
        config: The whole config.json.

    Raises:
        RefusedError: It is not a decoder with a linear head, or not one that jaxconv knows or can prove.
    """
    text = text_config(config)
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    _refuse(config, architecture)
    composite = _composite(config, architecture)
    if composite is not None:
        return composite
    for model_type in (config.get("model_type"), text.get("model_type")):
        row = FAMILIES.get(model_type) if isinstance(model_type, str) else None
        if row is not None:
            return TableFamily(str(model_type), _checked(row, str(model_type), architecture), row.spellings[0])
    _require_causal_lm(architecture)
    family = proof_family(config, KNOWN)
    if architecture not in (None, family.architecture):
        raise RefusedError(
            f"{family.model_type} with architecture {architecture!r} is not known; expected {family.architecture}."
        )
    return family


def _composite(config: JsonObject, architecture: object) -> Family | None:
    """The family of a config that has pictures beside text; None for a text model, that of a composite included.

    Raises:
        RefusedError: It is not one that jaxconv knows.
    """
    model_type, text_type = str(config.get("model_type")), str(text_config(config).get("model_type"))
    composite = COMPOSITES.get(model_type)
    if composite is not None and architecture in (None, composite.architecture):
        if text_type not in composite.texts:
            raise RefusedError(
                f"{composite.architecture} has a language model of model_type {text_type!r}; expected one of: "
                f"{', '.join(composite.texts)}."
            )
        if model_type in WITHOUT_WINDOWS and text_config(config).get("use_sliding_window"):
            raise RefusedError(
                f"config.json has use_sliding_window true; transformers' {composite.architecture} attends to the whole "
                "prompt all the same, and models of the plain family do not. Expected false; set it so if the model was "
                "trained without."
            )
        row = composite_row(composite, composite.texts[text_type])
        return TableFamily(model_type, row, row.spellings[0], composite=composite)
    if composite is None and isinstance(config.get("vision_config"), dict) and not _is_causal_lm(architecture):
        reason = UNPROVEN.get(model_type, "where vLLM looks for its score row is not known")
        raise RefusedError(
            f"{architecture or model_type} reads pictures beside text (vision_config), and jaxconv has no row for model_type "
            f"{model_type!r}: {reason}. Known: {', '.join(COMPOSITES)}."
        )
    return None


def _refuse(config: JsonObject, architecture: object) -> None:
    """Raises `RefusedError` for what no family can be."""
    text = text_config(config)
    model_type = text.get("model_type")
    if isinstance(architecture, str) and architecture.endswith("ForSequenceClassification"):
        raise RefusedError(f"the source is a classifier already ({architecture}); vLLM serves it as it is.")
    if config.get("is_encoder_decoder"):
        raise RefusedError(f"{model_type} is an encoder-decoder; its answer is not the next token of one decoder. {KNOWN}")
    for name in (architecture, model_type, config.get("model_type")):
        if isinstance(name, str) and name in REFUSED:
            raise RefusedError(f"{name} cannot be converted exactly: {REFUSED[name]}.")
    if _bidirectional(text) or _bidirectional(config) or "Bidirectional" in str(architecture):
        raise RefusedError(
            f"the source is bidirectional ({architecture}, see is_causal and use_bidirectional_attention in "
            "config.json); expected a causal LM, whose last token's logits are the answer."
        )


def _bidirectional(config: JsonObject) -> bool:
    return config.get("is_causal") is False or bool(config.get("use_bidirectional_attention"))


def _is_causal_lm(architecture: object) -> bool:
    return str(architecture).endswith("ForCausalLM")


def _require_causal_lm(architecture: object) -> None:
    if architecture is not None and not _is_causal_lm(architecture):
        raise RefusedError(f"config.json has architecture {architecture!r}; expected one that ends in ForCausalLM. {KNOWN}")


def _is_wrapper(architecture: object, expected: str) -> bool:
    """Whether a class name is that of a wrapper: FSDPQwen3ForCausalLM, PeftModelForCausalLM, OptimizedModule."""
    if not isinstance(architecture, str):
        return False
    return architecture in WRAPPERS or architecture.startswith("Peft") or architecture.endswith(expected)


def _checked(row: Row, model_type: str, architecture: object) -> Row:
    """The row, if it accepts the architecture."""
    if architecture not in (None, row.architecture, *row.accepts):
        if _is_wrapper(architecture, row.architecture):
            raise RefusedError(
                f"config.json names the class {architecture}, a wrapper of the training run around {row.architecture}; "
                f'loaders look for a model of that name. Set "architectures": ["{row.architecture}"] in config.json.'
            )
        _require_causal_lm(architecture)
        raise RefusedError(f"{model_type} with architecture {architecture!r} is not known; expected {row.architecture}.")
    return row
