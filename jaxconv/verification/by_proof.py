"""The proof of a family that no table describes: source and output through transformers, with all of their own code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jaxconv.errors import SourceError
from jaxconv.verification.prompts import Prompts
from jaxconv.verification.sides import Compared

if TYPE_CHECKING:
    from jaxconv.checkpoint import Array

FLOOR = 1e-4  # raw float32 scores agree to this
FLOAT32_EPSILON = 2.0**-24
MARGIN = 100  # logits smaller than this many tolerances would hide a factor between them


def proven_logits(compared: Compared, prompts: Prompts, device: str, findings: list[str]) -> tuple[Array, float, Array]:
    """The logits of both sides, and what else differs.

    The causal LM's logits are its own, with every scale and cap of its forward pass. They are compared with the linear head
    over the whole vocabulary too, where a factor or a cap shows that two answers may hide.

    Args:
        compared: Source and output.
        prompts: The prompts.
        device: Where the models run.
        findings: Gains a sentence for everything that is wrong.

    Returns:
        The causal LM's logits [prompts, answers], the largest sum of |hidden| . |row| of a prompt and token, and the
        classifier's logits [prompts, labels].

    Raises:
        SourceError: transformers cannot run one of them.
    """
    import numpy as np

    from torch_backend.by_proof import run_both

    model, output, answers = compared.model, compared.output, list(compared.expected.token_ids)
    token_ids = [list(ids) for ids in prompts.token_ids]
    assert isinstance(model.source.weights, Path)  # read_model refuses other sources of these families
    try:
        both = run_both(model.source.weights, model.source.assets, output.folder, token_ids, answers, device)
    except ValueError as error:
        raise SourceError(f"{model.family.architecture}: {error}.") from error
    width = both.hidden.shape[1]
    tolerance = max(FLOOR, 4 * FLOAT32_EPSILON * width**0.5 * both.vocabulary_magnitude)
    if not both.vocabulary_error <= tolerance:
        findings.append(
            f"the logits of {model.family.architecture} differ from its head times the hidden state by "
            f"{both.vocabulary_error:.3g}, more than {tolerance:.3g}: something scales or caps them."
        )
    if not both.largest_logit >= MARGIN * tolerance:
        findings.append(
            f"the largest logit of the source is {both.largest_logit:.3g}; expected at least {MARGIN * tolerance:.3g}, below "
            "which a scaled logit cannot be told from an unscaled one."
        )
    logits = both.hidden @ compared.score_weight.T if both.scores is None else both.scores
    logits = logits + compared.score_bias
    rows = model.lm_head.weight.read_rows(answers).astype(np.float64)
    return both.logits, float((np.abs(both.hidden) @ np.abs(rows).T).max()), logits
