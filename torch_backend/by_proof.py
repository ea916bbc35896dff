"""Runs a causal LM and its classifier through transformers, each with all of its own code."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torch_backend.models import quiet

WHOLE = 32  # how many prompts are compared over the whole vocabulary


@dataclass(frozen=True)
class BothSides:
    """What source and output give for the same prompts, in float64 from float32 models.

    Attributes:
        logits: The causal LM's own logits of the answers at the last token [prompts, answers].
        hidden: The last hidden state of the output's backbone [prompts, hidden_size].
        scores: The logits of transformers' classifier [prompts, labels], without `score.bias`; None if it has no class.
        vocabulary_error: The largest difference between the causal LM's own logits and its head applied to `hidden`,
            over the whole vocabulary of the first prompts.
        vocabulary_magnitude: The largest sum of |hidden| . |row| there, which bounds float32 rounding.
        largest_logit: The largest absolute logit there.
    """

    logits: NDArray[np.float64]
    hidden: NDArray[np.float64]
    scores: NDArray[np.float64] | None
    vocabulary_error: float
    vocabulary_magnitude: float
    largest_logit: float


def run_both(
    source: Path, assets: Path, output: Path, token_ids: list[list[int]], answers: list[int], device: str
) -> BothSides:
    """Runs both sides, one prompt at a time without padding, the source first.

    Args:
        source: The directory with the source's weights.
        assets: The directory with its config.json.
        output: The classifier's directory.
        token_ids: The prompts.
        answers: The token ids whose logits are wanted.
        device: The torch device.

    Raises:
        ValueError: A model cannot be loaded or run, or its files lack tensors that transformers needs.
    """
    try:
        with quiet():
            return _run_both(source, assets, output, token_ids, answers, torch.device(device))
    except Exception as error:  # every model has code of its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"transformers cannot prove it: {lines[0]:.300}") from error


@torch.inference_mode()
def _run_both(
    source: Path, assets: Path, output: Path, token_ids: list[list[int]], answers: list[int], place: torch.device
) -> BothSides:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(assets, trust_remote_code=False)
    causal = _load("the source", AutoModelForCausalLM, source, place, config=config)
    keep = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(causal.forward).parameters else {}
    rows = [_forward(causal, ids, place, **keep).logits[0, -1].float() for ids in token_ids[:WHOLE]]
    logits = [row[answers] for row in rows]
    logits += [_forward(causal, ids, place, **keep).logits[0, -1, answers].float() for ids in token_ids[WHOLE:]]
    head = causal.get_output_embeddings()
    weight, bias = head.weight.detach().clone(), None if head.bias is None else head.bias.detach().clone()
    del causal, head
    gc.collect()
    pooled = list(_classify(output, token_ids, place))
    hidden = torch.stack([state for state, _ in pooled])
    scores = [row for _, row in pooled if row is not None]
    first = hidden[:WHOLE]
    difference = torch.nn.functional.linear(first, weight, bias) - torch.stack(rows)
    return BothSides(
        logits=_float64(torch.stack(logits)),
        hidden=_float64(hidden),
        scores=_float64(torch.stack(scores)) if scores else None,
        vocabulary_error=float(difference.abs().max()),
        vocabulary_magnitude=float((first.abs() @ weight.abs().T).max()),
        largest_logit=float(torch.stack(rows).abs().max()),
    )


def _load(side: str, auto: Any, folder: Path, place: torch.device, **options: Any) -> Any:
    """A float32 model, every tensor of it from the folder. Raises `ValueError` if some are missing."""
    model, report = auto.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, output_loading_info=True, **options
    )
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if report.get(problem):
            tensors = ", ".join(sorted(map(str, report[problem]))[:5])
            raise ValueError(f"{side} loads with {problem.replace('_', ' ')}: {tensors}")
    # Of weights that it dequantises on loading transformers leaves norms and embedding in the dtype that they are stored in.
    if not getattr(model, "is_quantized", False):
        model = model.float()
    return model.to(place).eval()


def _forward(model: Any, ids: list[int], place: torch.device, **options: Any) -> Any:
    return model(torch.tensor([ids], device=place), use_cache=False, **options)


def _classify(
    output: Path, token_ids: list[list[int]], place: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """The last hidden state of each prompt and, if transformers has a class, the class's logits."""
    from transformers import (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        AutoConfig,
        AutoModel,
        AutoModelForSequenceClassification,
    )

    if type(AutoConfig.from_pretrained(output)) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        backbone = _load("the output", AutoModel, output, place)
        for ids in token_ids:
            yield _forward(backbone, ids, place).last_hidden_state[0, -1].float(), None
        return
    model = _load("the output", AutoModelForSequenceClassification, output, place)
    states: list[torch.Tensor] = []
    model.score.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    for ids in token_ids:
        states.clear()
        logits = _forward(model, ids, place).logits[0].float()
        yield states[0].reshape(-1, states[0].shape[-1])[-1].float(), logits


def _float64(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()
