"""The causal LM's logits of the source against the classifier's of the output, on the same token ids."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxconv.backends import Backend, pictures_unsupported
from jaxconv.pictures import PictureArrays
from jaxconv.scoring import load
from jaxconv.verification.by_proof import proven_logits
from jaxconv.verification.head import combine, logit_factor
from jaxconv.verification.pairs import Pairs
from jaxconv.verification.pictures import Pictured
from jaxconv.verification.prompts import Prompts
from jaxconv.verification.rank_agreement import rank_agreement
from jaxconv.verification.sides import Compared, Kind, Sides

if TYPE_CHECKING:
    from jaxconv.checkpoint import Array

FLOOR = 1e-4  # what the project promises of raw float32 scores
FLOAT32_EPSILON = 2.0**-24


@dataclass(frozen=True, slots=True)
class Scores:
    """Raw scores of both sides.

    Attributes:
        pairs: How many pairs were scored, those with pictures included.
        max_abs_error: The largest difference of a raw score.
        rank_agreement: The share of pairs in the same order, among those further apart than the tolerance allows to swap.
        tolerance: The largest difference that passes.
        tolerance_reason: Where the tolerance comes from.
        backend: What computed the two sides of pairs of text: "torch and jax" (source and output), or one name if it
            computed both.
        kind: "independent" if two implementations computed the two sides of these, else "consistency".
        findings: What is wrong, a sentence each.
        scored: The pairs, documents cut where the model takes no more.
        lengths: Tokens of the prompts.
        source: Raw scores of the source [pairs][labels].
        output: Raw scores of the output [pairs][labels].
        quantizer: Whether transformers read both sides with its quantizer; else packed weights were dequantised by jaxconv.
        pictures: What was scored of the pairs with pictures; None if there were none.
    """

    pairs: int
    max_abs_error: float
    rank_agreement: float
    tolerance: float
    tolerance_reason: str
    backend: str
    kind: Kind
    findings: tuple[str, ...]
    scored: Pairs
    lengths: tuple[int, ...]
    source: tuple[tuple[float, ...], ...]
    output: tuple[tuple[float, ...], ...]
    quantizer: bool = False
    pictures: Pictured | None = None


def compare_scores(compared: Compared, sides: Sides, prompts: Prompts, tolerance: float | None) -> Scores:
    """Scores all prompts with both sides.

    Where the source caps its logits the uncapped ones are compared: that is what the output is.

    Args:
        compared: Source and output.
        sides: What computes them.
        prompts: The prompts.
        tolerance: The largest difference that passes; from the size of float32 rounding if None.

    Raises:
        SourceError: One of the models cannot be loaded.
        UsageError: A backend cannot run it.
    """
    expected = compared.expected
    findings: list[str] = []
    results: dict[str, tuple[list[int], Array]] = {}  # by backend: the pairs that it scored, and their scores
    quantizer = sides.quantizer
    if compared.model.family.by_proof or quantizer:
        logits, magnitude, scores = proven_logits(compared, prompts, sides.source.device, findings)
        results["torch"] = (list(range(len(prompts.pairs))), scores)
    else:
        logits, magnitude = _source_logits(compared, sides.source, prompts)
        for runner in reversed(sides.output):  # the reported one last: JAX keeps the memory of an accelerator that it took
            gc.collect()
            if rows := _rows_of(compared, runner, prompts):
                scores, size = _output_logits(compared, runner, prompts.of(rows), findings)
                results[runner.name] = (rows, scores)
                magnitude = max(magnitude, size)
    truth = combine(logits.T, expected.method).T * expected.scale + expected.bias
    factor = abs(expected.scale * logit_factor(compared.model.config))
    limit, reason = _tolerance(compared.model.lm_head.weight.shape[1], magnitude * factor, tolerance)
    ran, reported = Sides(sides.source, tuple(runner for runner in sides.output if runner.name in results)), truth.copy()
    for runner in reversed(ran.output):
        rows, scores = results[runner.name]
        reported[rows] = scores
    for name, (rows, scores) in results.items():
        part = tuple(prompts.pairs[row] for row in rows)
        findings += _findings(truth[rows], scores, limit, part, _computed_by(sides.source.name, name))
    return Scores(
        pairs=len(prompts.pairs),
        max_abs_error=_worst(truth, reported),
        rank_agreement=rank_agreement(truth, reported, 2 * limit),
        tolerance=limit,
        tolerance_reason=reason,
        backend=ran.name,
        kind=ran.kind,
        findings=tuple(findings),
        scored=prompts.pairs,
        lengths=prompts.lengths,
        source=_rows(truth),
        output=_rows(reported),
        quantizer=quantizer,
        pictures=_pictured(compared, sides, prompts, truth, reported),
    )


def _rows_of(compared: Compared, backend: Backend, prompts: Prompts) -> list[int]:
    """The pairs that a backend scores: those with pictures where it reads them."""
    every = not any(prompts.pictured) or pictures_unsupported(backend.name, compared.model.config) is None
    return [row for row, pictured in enumerate(prompts.pictured) if every or not pictured]


def _pictured(compared: Compared, sides: Sides, prompts: Prompts, truth: Array, reported: Array) -> Pictured | None:
    """What was scored of pairs with pictures."""
    rows = [row for row, pictured in enumerate(prompts.pictured) if pictured]
    if not rows:
        return None
    scorers = tuple(runner for runner in sides.output if pictures_unsupported(runner.name, compared.model.config) is None)
    ran = Sides(sides.source, scorers)
    return Pictured(len(rows), _worst(truth[rows], reported[rows]), ran.name, ran.kind)


def _computed_by(source: str, output: str) -> str:
    names = {"torch": "transformers", "jax": "JAX"}
    return f"{names.get(source, source)} for the source, {names.get(output, output)} for the output"


def _findings(truth: Array, actual: Array, limit: float, pairs: Pairs, by: str) -> list[str]:
    """What is wrong with the output's scores [pairs, labels]."""
    import numpy as np

    findings = []
    worst = _worst(truth, actual)
    if not worst <= limit:
        error = np.abs(actual - truth)
        query, document = pairs[int(np.argmax(np.where(np.isfinite(error), error, np.inf).max(axis=1)))]
        findings.append(
            f"raw scores differ by {worst:.3g}, more than the tolerance {limit:.3g} ({by}); the worst pair is "
            f"{str(query)!r:.80} and {str(document)!r:.80}."
        )
    agreement = rank_agreement(truth, actual, 2 * limit)
    if agreement < 1:
        findings.append(f"only {agreement:.1%} of the pairs that are apart keep their order ({by}).")
    return findings


def _worst(truth: Array, actual: Array) -> float:
    import numpy as np

    return float(np.abs(actual - truth).max())


def _rows(array: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(x) for x in row) for row in array)


def _tolerance(width: int, magnitude: float, tolerance: float | None) -> tuple[float, str]:
    """How far float32 may be off. `magnitude` is the largest sum |hidden| . |row| of a prompt and token."""
    if tolerance is not None:
        return tolerance, "given"
    rounding = 4 * FLOAT32_EPSILON * width**0.5 * magnitude
    if rounding <= FLOOR:
        return FLOOR, "1e-4, the project's promise for raw float32 scores"
    return rounding, f"four times the expected float32 rounding of a dot product of {width} terms of this size"


def _source_logits(compared: Compared, backend: Backend, prompts: Prompts) -> tuple[Array, float]:
    """Logits of the answers [N, answers], float64, and the largest sum of |hidden| . |row|.

    transformers has the causal LM's own logits; with JAX they are float64 products of float32 hidden states.
    """
    import numpy as np

    ids, answers = prompts.token_ids, compared.expected.token_ids
    pictures = _pictures(prompts)
    if backend.name == "torch":
        checkpoint, config = compared.causal_lm
        return backend.causal_logits(checkpoint, config, ids, answers, pictures).astype(np.float64), 0.0
    hidden = backend.hidden_states(compared.backbone, compared.plain_config, ids, pictures).astype(np.float64)
    factor = logit_factor(compared.model.config)
    logits = hidden @ _answer_rows(compared).T * factor
    if compared.model.lm_head.bias is not None:
        logits = logits + compared.model.lm_head.bias.read()[list(answers)].astype(np.float64) * factor
    return logits, _magnitude(hidden, compared)


def _output_logits(compared: Compared, backend: Backend, prompts: Prompts, findings: list[str]) -> tuple[Array, float]:
    """Raw logits of the output [N, labels], float64, and the largest sum of |hidden| . |row| where it is known."""
    import numpy as np

    if backend.name != "torch":
        scorer = load(compared.output.folder, backend=backend.name, device=backend.device)
        encoded = [tuple(scorer.encode_sides(query, document).ids) for query, document in prompts.pairs]
        if encoded != list(prompts.token_ids):
            findings.append("jaxconv.load gives other token ids than the template and the source's tokenizer.")
        return np.asarray(scorer.token_logits(prompts.token_ids, _pictures(prompts)), np.float64), 0.0
    hidden = backend.hidden_states(*compared.classifier, prompts.token_ids, _pictures(prompts)).astype(np.float64)
    return hidden @ compared.score_weight.T + compared.score_bias, _magnitude(hidden, compared)


def _pictures(prompts: Prompts) -> Sequence[PictureArrays]:
    return prompts.pictures if any(prompts.pictured) else ()


def _answer_rows(compared: Compared) -> Array:
    import numpy as np

    rows = compared.model.lm_head.weight.read_rows(list(compared.expected.token_ids))
    return rows.astype(np.float32).astype(np.float64)


def _magnitude(hidden: Array, compared: Compared) -> float:
    import numpy as np

    return float((np.abs(hidden) @ np.abs(_answer_rows(compared)).T).max())
