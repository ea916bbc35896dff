"""What a causal LM and its classifier consist of, according to the installed transformers. Nothing is allocated."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torch_backend.models import quiet

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Names:
    """The tensors of a causal LM in one spelling.

    Attributes:
        tensors: Name -> shape, without a tied head and other names of a parameter that is listed already.
        head: The weight of the output projection; None if it is not a linear layer.
        head_bias: Its bias, if it has one.
        embedding: The weight of the input embedding; None if there is none.
        integers: The tensors that do not hold floating-point numbers, such as tables of token ids.
    """

    tensors: Shapes
    head: str | None
    head_bias: str | None
    embedding: str | None
    integers: frozenset[str]


@dataclass(frozen=True)
class BuiltModel:
    """A causal LM as transformers builds it from a config.

    Attributes:
        architecture: The name of its class.
        is_encoder_decoder: Whether the config describes an encoder and a decoder.
        config: The config with everything that transformers fills in.
        saved: The names that `save_pretrained` writes.
        loaded: The names inside the model, which files may have too.
        outside: Tensors inside the model that belong neither to the backbone nor to the head.
        head_shape: The shape of the head's weight; None if the head is not a linear layer.
        tied: Whether head and input embedding are one parameter.
        aliases: Other names, inside the model, of parameters that `loaded` lists.
        embeddings: The names of all embeddings inside the model.
        ignored: Regular expressions of names that transformers passes over in a file.
        missing: Tensors that the backbone needs when it is loaded without this head, and that the causal LM does not have,
            such as those of an encoder.
        classifier: The tensors of transformers' classifier outside of its backbone; None if it has no class.
    """

    architecture: str
    is_encoder_decoder: bool
    config: dict[str, Any]
    saved: Names
    loaded: Names
    outside: tuple[str, ...]
    head_shape: tuple[int, ...] | None
    tied: bool
    aliases: frozenset[str]
    embeddings: frozenset[str]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]
    classifier: Shapes | None


def build(config: Mapping[str, Any]) -> BuiltModel:
    """Builds the causal LM of a config on the meta device, and its classifier if transformers has one.

    Args:
        config: A config.json.

    Raises:
        ValueError: transformers has no causal LM of this config, or cannot build it.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, __version__

    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ValueError(f"transformers {__version__} has no model of this type")
    if CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"transformers {__version__} has no causal LM of this type")
    try:
        config_class: Any = CONFIG_MAPPING[model_type]
        with quiet():
            # JSON has no infinity: transformers writes {"__float__": "Infinity"} and reads it back like this.
            return _describe(config_class.from_dict(config_class._decode_special_floats(dict(config))))
    except Exception as error:  # a config may be wrong in any way, and every model has code of its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"transformers {__version__} cannot build it ({lines[-1].strip():.200})") from None


def _describe(config: Any) -> BuiltModel:
    from transformers import AutoModelForCausalLM

    model = _on_meta(AutoModelForCausalLM, config)
    tensors = model.state_dict(keep_vars=True)
    head, embedding = _weight(model.get_output_embeddings(), tensors), _weight(model.get_input_embeddings(), tensors)
    tied = head is not None and embedding is not None and tensors[head] is tensors[embedding]
    aliases = frozenset(model.all_tied_weights_keys) & tensors.keys()
    bias = None if head is None else f"{head.removesuffix('weight')}bias"
    loaded = Names(
        {name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in aliases},
        head, bias if bias in tensors else None, embedding, _integers(tensors),
    )  # fmt: skip
    backbone = f"{_backbone(model, embedding)}."
    needed, classifier = _classifier(config)
    return BuiltModel(
        architecture=type(model).__name__,
        is_encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        config=config.to_dict(),
        saved=_saved(model, loaded),
        loaded=loaded,
        outside=tuple(name for name in tensors if not name.startswith(backbone) and name not in (head, bias)),
        head_shape=None if head is None else tuple(tensors[head].shape),
        tied=tied,
        aliases=aliases - {head},
        embeddings=frozenset(f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)),
        ignored=tuple(model._keys_to_ignore_on_load_unexpected or ()),
        missing=tuple(sorted(needed - {name.removeprefix(backbone) for name in tensors})),
        classifier=classifier,
    )


def _on_meta(auto: Any, config: Any) -> Any:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return auto.from_config(config, trust_remote_code=False)


def _backbone(model: Any, embedding: str | None) -> str:
    """The attribute that holds the backbone; a few models name another one than they have."""
    name: str = model.base_model_prefix
    return name if hasattr(model, name) or embedding is None else embedding.split(".")[0]


def _weight(module: Any, tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The name of a module's weight. A tied one has two: the embedding's comes first, the head's last."""
    if not isinstance(module, nn.Linear | nn.Embedding):
        return None
    matching = [name for name, tensor in tensors.items() if tensor is module.weight]
    if not matching:
        return None
    return matching[-1] if isinstance(module, nn.Linear) else matching[0]


def _saved(model: Any, loaded: Names) -> Names:
    """The names that `save_pretrained` writes: experts one by one where the model holds them fused, and older names."""
    from transformers.core_model_loading import revert_weight_conversion

    def renamed(name: str | None) -> str | None:
        if name is None:
            return None
        return str(next(iter(revert_weight_conversion(model, {name: torch.empty(1, 1, device="meta")}))))

    saved = revert_weight_conversion(model, {n: t for n, t in model.state_dict().items() if n in loaded.tensors})
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    return Names(shapes, renamed(loaded.head), renamed(loaded.head_bias), renamed(loaded.embedding), _integers(saved))


def _integers(tensors: Mapping[str, torch.Tensor]) -> frozenset[str]:
    return frozenset(name for name, tensor in tensors.items() if not tensor.is_floating_point())


def _classifier(config: Any) -> tuple[set[str], Shapes | None]:
    """The backbone's tensors as transformers loads it for an output, and the classifier's own if there is a class."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModel, AutoModelForSequenceClassification

    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return set(_on_meta(AutoModel, config).state_dict()), None
    model = _on_meta(AutoModelForSequenceClassification, config)
    prefix = f"{model.base_model_prefix}."
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    backbone = {name.removeprefix(prefix) for name in shapes if name.startswith(prefix)}
    return backbone, {name: shape for name, shape in shapes.items() if not name.startswith(prefix)}
