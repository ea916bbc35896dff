"""transformers' own models of pictures and text, towers included, from a config and tensors that are read one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers

from torch_backend.models import LazyTensor, ModelError, quiet, unsupported
from torch_backend.packed import Tensors


def reads_pictures(config: Mapping[str, Any]) -> bool:
    """Whether the class that a config.json names is one of pictures and text."""
    model_class = None if unsupported(config) else _class_of(_settings(config))
    return model_class is not None and config.get("architectures") == [model_class.__name__]


def load_composite(config: Mapping[str, Any], tensors: Tensors, device: str) -> Any:
    """The causal LM of a composite with its towers and its head, tied or not, in float32.

    Args:
        config: A config.json that `reads_pictures`.
        tensors: Functions that read the tensors, by the names that files have; transformers knows old ones.
        device: The torch device.

    Raises:
        ModelError: The model cannot be built, or tensors are missing.
    """
    return _load(config, tensors, device, "float32")


def load_composite_backbone(config: Mapping[str, Any], tensors: Tensors, device: str, dtype: str = "float32") -> Any:
    """The model of a composite up to its final norm, towers included.

    Args:
        config: A config.json of a composite, of the causal LM or the classifier.
        tensors: Functions that read the tensors, by the names that files have, without heads.
        device: The torch device.
        dtype: The dtype of the parameters.

    Raises:
        ModelError: The model cannot be built, or tensors are missing.
    """
    # Only the causal LM knows the names of every generation of files. A tied head takes no memory and asks for no tensor.
    tied = {"tie_word_embeddings": True}
    text = config.get("text_config")
    whole = {**config, **tied, **({"text_config": {**text, **tied}} if isinstance(text, Mapping) else {})}
    return _load(whole, tensors, device, dtype).base_model


def _load(config: Mapping[str, Any], tensors: Tensors, device: str, dtype: str) -> Any:
    with quiet():
        try:
            settings = _settings(config)
            model, info = _class_of(settings).from_pretrained(
                None,
                config=settings,
                state_dict={name: LazyTensor(read) for name, read in tensors.items()},
                dtype=getattr(torch, dtype),
                output_loading_info=True,
            )
        except Exception as error:  # configs of strangers make transformers raise nearly anything
            raise ModelError(f"{type(error).__name__}: {str(error).strip()[:500]}") from error
    wrong = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    if wrong:
        raise ModelError(f"{len(wrong)} tensors are missing or have no place, among them {wrong[0]}.")
    return model.to(device).eval()


def _settings(config: Mapping[str, Any]) -> Any:
    plain = {key: value for key, value in config.items() if key != "auto_map"}
    return transformers.CONFIG_MAPPING[str(config["model_type"])].from_dict(plain)


def _class_of(settings: Any) -> Any:
    return transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(settings), None)
