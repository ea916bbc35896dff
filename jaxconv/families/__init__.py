"""Stage 3: what a model family calls its tensors, and what it does between final hidden state and logits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxconv.checkpoint import Checkpoint, TensorRef
from jaxconv.errors import RefusedError, SourceError
from jaxconv.families.table import FAMILIES, REFUSED, Row
from jaxconv.plan import LmHead, LogitTransform

HEAD, HEAD_BIAS = "lm_head.weight", "lm_head.bias"
EMBEDDING = "model.embed_tokens.weight"
IGNORED = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")  # buffers that old files carry
QUANTISED = re.compile(r".*\.(qweight|qzeros|scales|weight_scale|weight_scale_inv|weight_packed|absmax)")
COMPARE_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Family:
    """A model family: its row of the table, by model type."""

    model_type: str
    row: Row

    @property
    def architecture(self) -> str:
        """The causal LM's class."""
        return self.row.architecture

    @property
    def target_architecture(self) -> str:
        """The classifier's class, as vLLM and transformers name it."""
        return self.row.target or self.row.architecture.replace("ForCausalLM", "ForSequenceClassification")

    def transform(self, config: Mapping[str, Any]) -> LogitTransform:
        """What follows `hidden @ lm_head.T` in the causal LM. Raises `SourceError` for values that are no number."""
        scale = 1.0
        if self.row.multiply:
            scale = _number(config, self.row.multiply, _HF_DEFAULTS[self.row.multiply])
        if self.row.divide:
            scale = 1.0 / _number(config, self.row.divide, _HF_DEFAULTS[self.row.divide])
        softcap = config.get("final_logit_softcapping", 30.0 if self.model_type == "gemma2" else None)
        return LogitTransform(scale=scale, softcap=float(softcap) if softcap is not None else None)

    def expected(self, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Every backbone tensor and its shape. Raises `SourceError` for sizes that are missing or no numbers."""
        patterns = dict(self.row.tensors)
        for (key, default), extra in self.row.when.items():
            if config.get(key, default):
                patterns.update(extra)
        sizes = _sizes(config)
        shapes = {}
        for pattern, text in patterns.items():
            shape = tuple(_size(symbol, sizes, config) for symbol in text.split())
            layers = range(_integer(config, "num_hidden_layers")) if "{i}" in pattern else range(1)
            experts = range(_experts(config)) if "{e}" in pattern else range(1)
            for i in layers:
                for e in experts:
                    shapes[pattern.replace("{i}", str(i)).replace("{e}", str(e))] = shape
        return shapes


# transformers 5.23 configuration classes
_HF_DEFAULTS = {"logit_scale": 0.0625, "logits_scaling": 1.0}


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a config: `text_config` of composite ones, else the config."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def family_for(config: Mapping[str, Any]) -> Family:
    """The family of a config. Raises `RefusedError` for what has no linear head on a known decoder."""
    model_type = config.get("model_type")
    architectures = config.get("architectures") or []
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    known = f"Known model types: {', '.join(FAMILIES)}."
    if isinstance(architecture, str) and architecture.endswith("ForSequenceClassification"):
        raise RefusedError(f"the source is a classifier already ({architecture}); vLLM serves it as it is.")
    if config.get("is_encoder_decoder"):
        raise RefusedError(f"{model_type} is an encoder-decoder; its answer is no next token of one decoder. {known}")
    if architecture in REFUSED:
        raise RefusedError(f"{architecture} cannot be converted exactly: {REFUSED[architecture]}.")
    if config.get("quantization_config"):
        raise RefusedError(
            "the source is quantised (config.json has quantization_config); expected plain weights. "
            "Convert the original model, then quantise the result without its score layer."
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise RefusedError(f"config.json has model_type {model_type!r}, a family that jaxconv does not know. {known}")
    row = FAMILIES[model_type]
    if architecture not in (None, row.architecture):
        raise RefusedError(f"{model_type} with architecture {architecture!r} is not known; expected {row.architecture}.")
    if config.get("is_causal") is False:
        raise RefusedError("config.json says is_causal false: a bidirectional model has no next-token answer.")
    return Family(model_type, row)


def _integer(config: Mapping[str, Any], key: str, default: Any = None) -> int:
    value = config.get(key, default)
    value = default if value is None else value
    if type(value) is not int or not 0 < value < 1 << 32:
        raise SourceError(f"config.json has {key} {value!r}; expected a positive whole number.")
    return value


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if type(value) not in (int, float) or not math.isfinite(value) or value == 0:
        raise SourceError(f"config.json has {key} {value!r}; expected a finite number other than zero.")
    return float(value)


def _experts(config: Mapping[str, Any]) -> int:
    key = "num_local_experts" if "num_local_experts" in config else "num_experts"
    return _integer(config, key)


def _sizes(config: Mapping[str, Any]) -> dict[str, int]:
    hidden, heads = _integer(config, "hidden_size"), _integer(config, "num_attention_heads")
    head_dim = _integer(config, "head_dim", _HEAD_DIM.get(str(config.get("model_type")), hidden // heads))
    kv_heads = _integer(config, "num_key_value_heads", heads)
    return {"D": hidden, "H": head_dim, "Q": heads * head_dim, "K": kv_heads * head_dim}


_HEAD_DIM = {"gemma": 256, "gemma2": 256, "gemma3_text": 256, "qwen3": 128}  # transformers' defaults when absent


def _size(symbol: str, sizes: Mapping[str, int], config: Mapping[str, Any]) -> int:
    if symbol in sizes:
        return sizes[symbol]
    keys = {"V": "vocab_size", "F": "intermediate_size", "M": "moe_intermediate_size"}
    if symbol in keys:
        return _integer(config, keys[symbol])
    if symbol == "E":
        return _experts(config)
    return {"2F": lambda: 2 * _integer(config, "intermediate_size"), "Q+2K": lambda: sizes["Q"] + 2 * sizes["K"]}[symbol]()


def check_backbone(checkpoint: Checkpoint, family: Family, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the backbone tensors, in file order, once they are those that the config promises.

    Raises `SourceError` listing what is missing, unexpected or of another shape; `RefusedError` for quantised ones.
    """
    quantised = [name for name in checkpoint.tensors if QUANTISED.fullmatch(name)]
    if quantised:
        raise RefusedError(
            f"the source is quantised ({quantised[0]} and {len(quantised) - 1} more); expected plain weights."
        )
    expected = family.expected(config)
    missing = [name for name in expected if name not in checkpoint.tensors]
    allowed = {HEAD, HEAD_BIAS}
    extra = [n for n in checkpoint.tensors if n not in expected and n not in allowed and not IGNORED.fullmatch(n)]
    shaped = [
        f"{name} is {list(ref.shape)}, expected {list(expected[name])}"
        for name, ref in checkpoint.tensors.items()
        if name in expected and ref.shape != expected[name]
    ]
    findings = [
        f"{len(found)} {word} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
        for word, found in (("missing", missing), ("unexpected", extra), ("of another shape", shaped))
        if found
    ]
    if findings:
        layers = {int(m[1]) for m in (re.match(r"model\.layers\.(\d+)\.", n) for n in checkpoint.tensors) if m}
        raise SourceError(
            f"{checkpoint.path}: config.json ({family.model_type}, {config.get('num_hidden_layers')} layers, hidden_size "
            f"{config.get('hidden_size')}) and the tensors ({len(layers)} layers) disagree: {'; '.join(findings)}. "
            "Check that config and weights belong together, or choose with --layout."
        )
    return tuple(name for name in checkpoint.tensors if name in expected)


def find_lm_head(checkpoint: Checkpoint, family: Family, config: Mapping[str, Any]) -> LmHead:
    """The head's rows: `lm_head.weight`, or the embedding when tied.

    Raises `SourceError` when the flag asks for a head that is not there, `RefusedError` when tied weights differ.
    """
    flag = config.get("tie_word_embeddings")
    tied = family.row.tied if flag is None else bool(flag)
    embedding, head = checkpoint.tensors[EMBEDDING], checkpoint.tensors.get(HEAD)
    bias = checkpoint.tensors.get(HEAD_BIAS)
    if head is not None and head.shape != embedding.shape:
        raise SourceError(f"{HEAD} is {list(head.shape)}; expected {list(embedding.shape)}, as the embedding.")
    if not tied and head is None:
        raise SourceError(
            f"{checkpoint.path} has no {HEAD}, and tie_word_embeddings is {flag!r} (untied). "
            'Set "tie_word_embeddings": true in config.json if the embedding is the head, else get the whole checkpoint.'
        )
    if tied and head is not None and not _equal(head, embedding):
        raise RefusedError(
            f"{HEAD} and {EMBEDDING} differ, but tie_word_embeddings is {flag!r} (tied): loaders would disagree. Set "
            '"tie_word_embeddings" in config.json: false to score with lm_head, or true and remove lm_head from the file.'
        )
    return LmHead(embedding if tied or head is None else head, bias, tied)


def _equal(x: TensorRef, y: TensorRef) -> bool:
    """Whether two matrices hold the same bytes, compared a few megabytes at a time."""
    if x.dtype != y.dtype:
        return False
    step = max(1, COMPARE_BYTES // max(1, x.nbytes // x.shape[0]))
    if x.extent is None or y.extent is None:
        return x.read().tobytes() == y.read().tobytes()
    for start in range(0, x.shape[0], step):
        rows = range(start, min(start + step, x.shape[0]))
        if x.read_rows(rows).tobytes() != y.read_rows(rows).tobytes():
            return False
    return True
