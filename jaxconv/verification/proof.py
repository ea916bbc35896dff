"""`verify`: what an output claims, its tensors, head and files, and its scores -> one report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import SourceError, UsageError
from jaxconv.plan import Source
from jaxconv.planning import Model, Options, read_model
from jaxconv.sources import resolve
from jaxconv.verification.bundle import check_config, check_template, check_tokenizer
from jaxconv.verification.claims import Claims, expect
from jaxconv.verification.head import Head, check_head
from jaxconv.verification.output import Output, read_output
from jaxconv.verification.scores import Pairs, Scores, compare_scores, read_pairs
from jaxconv.verification.structure import Structure, compare_tensors


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `findings` has a sentence for everything that is wrong; `passed` is that there is none."""

    structure: Structure
    head: Head
    scores: Scores | None
    findings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """The report as `jaxconv verify --json` prints it; a number that is not finite is null."""
        scores = self.scores
        return {
            "passed": self.passed,
            "structure": {
                "tensors": self.structure.tensors,
                "identical": self.structure.identical,
                "mismatched": list(self.structure.mismatched),
            },
            "head": {"exact": self.head.exact, "max_abs_error": _finite(self.head.max_abs_error)},
            "scores": None if scores is None else {
                "pairs": scores.pairs,
                "max_abs_error": _finite(scores.max_abs_error),
                "rank_agreement": _finite(scores.rank_agreement),
                "tolerance": scores.tolerance,
                "tolerance_reason": scores.tolerance_reason,
                "backend": scores.backend,
            },
            "findings": list(self.findings),
        }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def verify(
    source: str | Path,
    output: str | Path,
    *,
    pairs: str | Path | Sequence[tuple[str, str]] | None = None,
    backend: str = "auto",
    device: str = "auto",
    tolerance: float | None = None,
    structure_only: bool = False,
    base: str | Path | None = None,
    layout: str | None = None,
    step: int | None = None,
    adapter: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    preset: str | None = None,
    method: str | None = None,
    classifier_from_tokens: Sequence[str] | None = None,
    token_ids: Sequence[int] | None = None,
) -> Report:
    """Proves that the folder `output` is the classifier of `source`: bits, head, files, and raw scores of `pairs`.

    `pairs` is a JSONL file or (query, document) tuples; built-in ones are used without. Raises `SourceError` for a
    source or output that cannot be read, `UsageError` for a wrong call; everything else is a finding of the report.
    """
    found = resolve(source, base=base, revision=revision, token=token, offline=offline)
    claims = Claims(preset, method, classifier_from_tokens, token_ids)
    options = Options(layout=layout, step=step, adapter=adapter)
    return prove(
        found, Path(output).expanduser(), claims, options,
        pairs=pairs, backend=backend, device=device, tolerance=tolerance, structure_only=structure_only,
    )  # fmt: skip


def prove(
    source: Source,
    folder: Path,
    claims: Claims,
    options: Options,
    checkpoint: Checkpoint | None = None,
    *,
    pairs: str | Path | Sequence[tuple[str, str]] | None = None,
    backend: str = "auto",
    device: str = "auto",
    tolerance: float | None = None,
    structure_only: bool = False,
) -> Report:
    """`verify` for a source that is resolved, or open, already; of `options` only layout, step and adapter count."""
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"--tolerance {tolerance!r} is not usable; expected a finite number of zero or more.")
    chosen: Pairs = read_pairs(pairs) if pairs is None or isinstance(pairs, str | Path) else tuple(pairs)
    output = read_output(folder)
    model = read_model(source, Options(layout=options.layout, step=options.step, adapter=options.adapter), checkpoint)
    expected = expect(model, output, claims)
    structure = compare_tensors(model.checkpoint, output.tensors, expected.dtype)
    head = check_head(model, output, expected)
    template = tuple(check_template(output))
    findings = [
        *output.findings, *expected.findings, *structure.findings, *head.findings, *check_config(model, output, expected),
        *check_tokenizer(model, output), *template,
    ]  # fmt: skip
    scores = None
    if not structure_only:
        wrong = _cannot_run(model, output, head, template)
        try:
            if wrong is None:
                scores = compare_scores(
                    model, output, expected, chosen, backend=backend, device=device, tolerance=tolerance
                )  # fmt: skip
                findings += scores.findings
        except SourceError as error:
            wrong = str(error)
        if wrong is not None:
            findings.append(f"scores were not compared: {wrong}")
    return Report(structure, head, scores, tuple(findings))


def _cannot_run(model: Model, output: Output, head: Head, template: tuple[str, ...]) -> str | None:
    """Why the output cannot be run at all, or None."""
    if head.max_abs_error is None:
        return "the score head cannot be used."
    if template:
        return "there is no template that can be used."
    shapes = {name: stored.shape for name, stored in output.tensors.items()}
    if any(shapes.get(name) != ref.shape for name, ref in model.checkpoint.tensors.items()):
        return "tensors of the backbone are missing or of another shape."
    return None
