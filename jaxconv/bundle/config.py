"""config.json of the output: the source's JSON with only what must change, unknown keys kept.

What each key does in vLLM 0.32 and transformers 5.23: use_sep_token false (else vLLM puts a separator between
query and document), num_labels by id2label, dtype explicit (else vLLM takes float32 from the score row),
activation in `sentence_transformers`, no key that would make vLLM convert on the fly once more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import NUMPY_NAMES
from jaxconv.errors import SourceError
from jaxconv.plan import Plan
from jaxconv.writer.plan import dominant_dtype

STALE = ("classifier_from_token", "method", "is_original_qwen3_reranker")
DROPPED = (*STALE, "auto_map", "num_labels", "problem_type", "head_dtype", "sbert_ce_default_activation_function")
ACTIVATIONS = {
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
    "identity": "torch.nn.modules.linear.Identity",
}


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object of a source. Raises `SourceError` naming the file when it is absent or none."""
    if not path.is_file():
        raise SourceError(f"{path.parent} has no {path.name}; expected {what}. Pass --base with a model that has it.")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is no JSON ({error}); expected {what}. Download it again.") from None
    if not isinstance(document, dict):
        raise SourceError(f"{path} holds a JSON {type(document).__name__}; expected an object with {what}.")
    return document


def output_dtype(plan: Plan) -> str:
    """The name of the backbone's dtype in the output."""
    backbone = {name: ref for name, ref in plan.checkpoint.tensors.items() if not name.startswith("lm_head.")}
    return NUMPY_NAMES[plan.dtype or dominant_dtype(backbone)]


def output_config(plan: Plan, pad_token_id: int | None) -> dict[str, Any]:
    """The classifier's config."""
    dtype = output_dtype(plan)
    labels = [f"LABEL_{number}" for number in range(plan.num_labels)]
    if plan.method == "no_post_processing" and plan.num_labels > 1:
        labels = [token.text for token in plan.tokens]
    config = {key: value for key, value in plan.config.items() if key not in DROPPED}
    config.update(
        architectures=[plan.family.target_architecture],
        id2label={str(number): label for number, label in enumerate(labels)},
        label2id={label: number for number, label in enumerate(labels)},
        use_sep_token=plan.use_sep_token,
        use_pad_token=plan.use_sep_token,
        dtype=dtype,
        torch_dtype=dtype,
        sentence_transformers={"activation_fn": ACTIVATIONS[plan.activation]} if plan.num_labels == 1 else {},
    )
    if not config["sentence_transformers"]:
        del config["sentence_transformers"]
    if pad_token_id is not None:
        config["pad_token_id"] = pad_token_id
    return config


def stale_keys(config: Mapping[str, Any]) -> list[str]:
    """Keys that would make vLLM convert a converted checkpoint again."""
    return [key for key in STALE if key in config]
