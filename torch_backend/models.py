"""transformers' own models, built from a config and filled with tensors that are read one at a time.

Nothing is loaded from a directory, so that no adapter, code or generation config beside the weights has an effect.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from transformers.utils import logging

from torch_backend.inputs import Pictures, batches, model_inputs
from torch_backend.packed import Array, PackedTensors, Tensors, can_stay_packed, load_packed

T = TypeVar("T")

EMBEDDING = "embed_tokens.weight"
HEADS = ("lm_head.", "score.")


class ModelError(ValueError):
    """transformers cannot build or run the model of a config, or the tensors do not fit it."""


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Why the installed transformers has no model for a config; None if it has one."""
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in transformers.CONFIG_MAPPING:
        return None
    return f"transformers {transformers.__version__} has no model_type {model_type!r}. Install a version that has it."


def load_backbone(
    config: Mapping[str, Any], tensors: Tensors, device: str, dtype: str = "float32", packed: PackedTensors | None = None
) -> Any:
    """The model up to its final norm.

    Args:
        config: A config.json. Of a multimodal model the language model is built.
        tensors: Functions that read the tensors, by Hugging Face name; tensors of heads and towers are left out.
        device: The torch device.
        dtype: The dtype of the parameters.
        packed: Functions that read codes, scales and zero points of the tensors that are stored so, by the same names. They
            stay codes in memory where the model has them as plain linears.

    Raises:
        ModelError: The model cannot be built, or tensors are missing or misshaped.
    """
    return _load(transformers.MODEL_MAPPING, config, tensors, device, dtype, packed or {})


def load_causal_lm(
    config: Mapping[str, Any], tensors: Tensors, device: str, dtype: str = "float32", packed: PackedTensors | None = None
) -> Any:
    """The causal LM with its head, tied or not.

    Args:
        config: A config.json. Of a multimodal model the language model is built.
        tensors: Functions that read the tensors, by Hugging Face name.
        device: The torch device.
        dtype: The dtype of the parameters.
        packed: Functions that read codes, scales and zero points of the tensors that are stored so, by the same names. They
            stay codes in memory where the model has them as plain linears.

    Raises:
        ModelError: The model cannot be built, or tensors are missing or misshaped.
    """
    return _load(transformers.MODEL_FOR_CAUSAL_LM_MAPPING, config, tensors, device, dtype, packed or {})


@torch.inference_mode()
def hidden_states(model: Any, token_ids: Sequence[Sequence[int]], pictures: Pictures = ()) -> Array:
    """Last hidden states at the last token; one sequence at a time, without padding.

    Args:
        model: A model up to its final norm.
        token_ids: The token ids of each sequence.
        pictures: The numbers of the pictures of each sequence; empty if there are none.

    Returns:
        float32 [len(token_ids), hidden_size].
    """
    return _rows(model, token_ids, pictures, lambda inputs: model(**inputs, use_cache=False).last_hidden_state[0, -1])


@torch.inference_mode()
def causal_logits(model: Any, token_ids: Sequence[Sequence[int]], answers: Sequence[int], pictures: Pictures = ()) -> Array:
    """A causal LM's own logits after the last token; one sequence at a time, without padding.

    Args:
        model: A causal LM.
        token_ids: The token ids of each prompt.
        answers: The token ids whose logits are returned.
        pictures: The numbers of the pictures of each prompt; empty if there are none.

    Returns:
        float32 [len(token_ids), len(answers)].
    """
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}

    def row_of(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = model(**inputs, use_cache=False, **last_only).logits
        return logits[0, -1, list(answers)]

    return _rows(model, token_ids, pictures, row_of)


def _rows(
    model: Any, token_ids: Sequence[Sequence[int]], pictures: Pictures,
    row_of: Callable[[dict[str, torch.Tensor]], torch.Tensor],
) -> Array:  # fmt: skip
    try:
        rows = [row_of(model_inputs(token_ids, pictures, [row], model)[0]) for row in range(len(token_ids))]
    except Exception as error:  # a config that builds may still not run, and any error may come of it
        raise ModelError(f"{type(error).__name__}: {str(error).strip()[:500]}") from error
    return torch.stack(rows).float().cpu().numpy()


class TorchClassifier:
    """A backbone with a float32 score head, bias included (transformers' own classes would drop the bias)."""

    def __init__(self, backbone: Any, weight: Array, bias: Array | None, device: str = "cpu") -> None:
        self.backbone = backbone
        self.weight = to_torch(weight).float().to(device)
        self.bias = None if bias is None else to_torch(bias).float().to(device)

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[Sequence[int]], pictures: Pictures = ()) -> list[list[float]]:
        """Raw logits [labels] of each sequence of `token_ids` and `pictures`, in order; batches are padded on the right."""
        rows: list[list[float]] = [[] for _ in token_ids]
        for members in batches(token_ids, pictures):
            inputs, lengths = model_inputs(token_ids, pictures, members, self.backbone)
            hidden = self.backbone(**inputs, use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(members)), lengths - 1].float()
            scores = torch.nn.functional.linear(last, self.weight, self.bias)
            for row, score in zip(members, scores.tolist(), strict=True):
                rows[row] = score
        return rows


class LazyTensor:
    """A tensor that transformers reads (`tensor[...]`) when it is placed. Reads never overlap."""

    lock = threading.Lock()

    def __init__(self, read: Callable[[], Array]) -> None:
        self._read = read

    def __getitem__(self, index: object) -> torch.Tensor:
        with self.lock:
            return to_torch(self._read())[index]  # type: ignore[index]


def to_torch(array: Array) -> torch.Tensor:
    """A NumPy (or ml_dtypes) array as a tensor of the same bits, which shares its memory where it can."""
    dtype = getattr(torch, array.dtype.name, None)
    if not isinstance(dtype, torch.dtype):
        raise ModelError(f"a tensor has dtype {array.dtype}, which PyTorch does not have. Convert the model first.")
    with warnings.catch_warnings():  # of arrays that are not writable; nothing writes to parameters
        warnings.simplefilter("ignore", UserWarning)
        flat = torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return flat.view(dtype).reshape(array.shape)


def _load(
    models: Mapping[Any, Any], config: Mapping[str, Any], tensors: Tensors, device: str, dtype: str, packed: PackedTensors
) -> Any:
    with quiet():
        try:
            settings, model_class = _class_for(models, config)
            with torch.device("meta"):
                empty = model_class(settings)
            names = list(empty.state_dict())
            spelled = _renamed({name: name for name in tensors}, names)
            readers = {name: tensors[old] for name, old in spelled.items()}
            codes = {name: packed[old] for name, old in spelled.items() if old in packed}
            model, missing = _filled(model_class, settings, empty, readers, codes, dtype)
        except ModelError:
            raise
        except Exception as error:  # configs of strangers make transformers raise nearly anything
            raise ModelError(f"{type(error).__name__}: {str(error).strip()[:500]}") from error
    if missing:
        raise ModelError(f"{len(missing)} tensors are missing, among them {missing[0]}. Download the weights again.")
    return model.to(device).eval()


def _filled(
    model_class: Any, settings: Any, empty: Any, readers: Tensors, packed: PackedTensors, dtype: str
) -> tuple[Any, list[str]]:
    """The model with its values, and the names of parameters that have none."""
    stored = getattr(torch, dtype)
    if can_stay_packed(empty, readers, packed):
        model = load_packed(lambda: model_class._from_config(settings, dtype=stored), readers, packed, stored, to_torch)
        return model, sorted(name for name, parameter in model.named_parameters() if parameter.is_meta)
    model, info = model_class.from_pretrained(
        None,
        config=settings,
        state_dict={name: LazyTensor(read) for name, read in readers.items()},
        dtype=stored,
        output_loading_info=True,
    )
    return model, sorted(info["missing_keys"])


def _class_for(models: Mapping[Any, Any], config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The config as an object, and the model class for it; of a multimodal model those of its language model."""
    candidates = [config]
    text = config.get("text_config")
    if isinstance(text, Mapping):
        tied = {"tie_word_embeddings": config["tie_word_embeddings"]} if "tie_word_embeddings" in config else {}
        candidates.insert(0, {**tied, **text})
    for candidate in candidates:
        if unsupported(candidate) is None:
            plain = {key: value for key, value in candidate.items() if key != "auto_map"}
            if plain.get("attn_logit_softcapping") is not None:
                plain["attn_implementation"] = "eager"  # older releases take sdpa, which leaves the cap out
            settings = transformers.CONFIG_MAPPING[str(candidate["model_type"])].from_dict(plain)
            for part in (settings.get_text_config(), settings):  # old composites have no text_config
                if type(part) in models:
                    model_class = models[type(part)]
                    return part, model_class[0] if isinstance(model_class, tuple) else model_class
    raise ModelError(
        unsupported(config)
        or f"transformers {transformers.__version__} has no such model of model_type {config.get('model_type')!r}."
    )


def _renamed(tensors: Mapping[str, T], names: Sequence[str]) -> Mapping[str, T]:
    """The entries with the prefix that the model gives its embedding; unchanged where either has no single embedding.

    The names that transformers itself would convert (experts of a mixture, for example) only lose or gain a prefix here.
    """
    before = [name.removesuffix(EMBEDDING) for name in tensors if _is_embedding(name)]
    after = [name.removesuffix(EMBEDDING) for name in names if _is_embedding(name)]
    if len(before) != 1 or len(after) != 1:
        return tensors
    renamed = {}
    for name, entry in tensors.items():
        head = next((name[name.index(head) :] for head in HEADS if f".{head}" in f".{name}"), None)
        if head is not None and not name.startswith(f"{before[0]}layers."):
            renamed[head] = entry
        elif name.startswith(before[0]):
            renamed[after[0] + name.removeprefix(before[0])] = entry
    return renamed


def _is_embedding(name: str) -> bool:
    return name == EMBEDDING or name.endswith(f".{EMBEDDING}")


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and load reports of transformers."""
    log: Any = logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
