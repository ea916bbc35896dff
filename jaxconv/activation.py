"""What a consumer applies to a logit, and how each of them spells it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from jaxconv.errors import SourceError
from jaxconv.json_files import JsonObject

Activation = Literal["sigmoid", "identity", "softmax"]  # softmax: of several labels
SELECTABLE: tuple[Activation, ...] = ("sigmoid", "identity")

# The class that vLLM and sentence-transformers read.
TORCH_CLASSES: Mapping[Activation, str] = {
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
    "identity": "torch.nn.modules.linear.Identity",
}


def activation_of_class(name: str) -> Activation | None:
    """The activation of a torch class name ("torch.nn.modules.activation.Sigmoid"); None unless sigmoid or identity."""
    short = name.rsplit(".", 1)[-1].lower()
    return next((activation for activation in SELECTABLE if activation == short), None)


def activate(config: JsonObject, logits: Sequence[float]) -> list[float]:
    """Applies the activation that a config.json records to the raw logits of one pair.

    The order of the keys is vLLM's (0.32, pooler/layers/activations.py): `problem_type`, then the class in
    `sentence_transformers` or `sbert_ce_default_activation_function`, then sigmoid for one label and softmax for several.

    Args:
        config: The classifier's config.json.
        logits: One raw logit per label.

    Returns:
        One score per label.

    Raises:
        SourceError: The config names an activation other than identity, sigmoid or softmax.
    """
    default = "sigmoid" if len(logits) == 1 else "softmax"
    section = config.get("sentence_transformers")
    recorded = section.get("activation_fn") if isinstance(section, dict) else None
    recorded = recorded or config.get("sbert_ce_default_activation_function")
    problem_types = {
        "regression": "identity", "single_label_classification": default, "multi_label_classification": "sigmoid"
    }  # fmt: skip
    kind = problem_types.get(str(config.get("problem_type")))
    if kind is None:
        kind = default if recorded is None else str(recorded).rsplit(".", 1)[-1].lower()
    if kind == "identity":
        return list(logits)
    if kind == "sigmoid":
        return [0.5 * (1 + math.tanh(x / 2)) for x in logits]
    if kind == "softmax":
        exponentials = [math.exp(x - max(logits)) for x in logits]
        return [x / sum(exponentials) for x in exponentials]
    raise SourceError(f"config.json names the activation {recorded!r}; expected Identity, Sigmoid or Softmax.")
