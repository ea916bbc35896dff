"""`verify`: what an output claims, its tensors, head and files, and its scores -> one report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import SourceError, UsageError, VerificationError
from jaxconv.model import Model, ReadOptions, read_model
from jaxconv.sources import Source, resolve
from jaxconv.sources.hub import HubAccess
from jaxconv.verification.bundle import check_config, check_template, check_tokenizer
from jaxconv.verification.claims import Claims, expect
from jaxconv.verification.head import Head, check_head
from jaxconv.verification.output import Output, read_output
from jaxconv.verification.page import prepare, write_report
from jaxconv.verification.report import Report
from jaxconv.verification.scores import Pairs, Scores, compare_scores, read_pairs
from jaxconv.verification.structure import compare_tensors
from jaxconv.verification.text import check_text
from jaxconv.verification.vllm import Served, compare_served, server_url


def verify(
    source: str | Path,
    output: str | Path,
    *,
    pairs: str | Path | Sequence[tuple[str, str]] | None = None,
    backend: str = "auto",
    device: str = "auto",
    tolerance: float | None = None,
    structure_only: bool = False,
    against_vllm: str | None = None,
    report: str | Path | None = None,
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

    `pairs` is a JSONL file or (query, document) tuples; built-in ones are used without. `against_vllm` is the address
    of a vLLM server that serves `output`; `tolerance` is then that of the server's scores, and the local ones keep
    their own. `report` is a folder for report.html and report.json, which are written whatever the result.
    Raises `SourceError` for a source or output that cannot be read, `UsageError` for a wrong call, `OutputError` for
    a report that cannot be written; everything else is a finding of the report.
    """
    place = None if report is None else prepare(Path(report).expanduser())
    found = resolve(source, base=base, access=HubAccess(revision, token, offline))
    claims = Claims(preset, method, classifier_from_tokens, token_ids)
    options = ReadOptions(layout, step, adapter)
    proved = prove(
        found, Path(output).expanduser(), claims, options,
        pairs=pairs, backend=backend, device=device, tolerance=tolerance, structure_only=structure_only,
        against_vllm=against_vllm,
    )  # fmt: skip
    if place is not None:
        write_report(place, proved, str(source), str(output))
    return proved


def prove(
    source: Source,
    folder: Path,
    claims: Claims,
    options: ReadOptions,
    checkpoint: Checkpoint | None = None,
    *,
    pairs: str | Path | Sequence[tuple[str, str]] | None = None,
    backend: str = "auto",
    device: str = "auto",
    tolerance: float | None = None,
    structure_only: bool = False,
    against_vllm: str | None = None,
) -> Report:
    """`verify` for a source that is resolved, or open, already."""
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"--tolerance {tolerance!r} is not usable; expected a finite number of zero or more.")
    if against_vllm is not None and structure_only:
        raise UsageError("--against-vllm compares scores, which --structure-only leaves out; give one of them.")
    url = None if against_vllm is None else server_url(against_vllm)
    chosen: Pairs = read_pairs(pairs) if pairs is None or isinstance(pairs, str | Path) else tuple(pairs)
    output = read_output(folder)
    model = read_model(source, options, checkpoint)
    expected = expect(model, output, claims)
    if url is not None and expected.num_labels != 1:
        raise UsageError(f"--against-vllm needs one label; {folder} has {expected.num_labels}, which /score does not take.")
    structure = compare_tensors(model.checkpoint, output.tensors, expected.dtype)
    head = check_head(model, output, expected)
    template = tuple(check_template(output))
    findings = [
        *output.findings, *expected.findings, *structure.findings, *head.findings, *check_config(model, output, expected),
        *check_tokenizer(model, output), *template,
    ]  # fmt: skip
    scores, served = None, None
    if not structure_only:
        wrong = _cannot_run(model, output, head, template)
        if not template:
            findings += check_text(model.source.assets, folder, chosen).findings
        try:
            if wrong is None:
                own = tolerance if url is None else None
                scores = compare_scores(model, output, expected, chosen, backend=backend, device=device, tolerance=own)
                findings += scores.findings
        except SourceError as error:
            wrong = str(error)
        if wrong is not None:
            findings.append(f"scores were not compared: {wrong}")
    if url is not None:
        served = _served(url, folder, scores, tolerance, findings)
    return Report(structure, head, scores, served, tuple(findings))


def _served(url: str, folder: Path, scores: Scores | None, tolerance: float | None, findings: list[str]) -> Served | None:
    """The server's scores, or None and a finding."""
    try:
        if scores is None:
            raise VerificationError("there are no local scores.")
        served = compare_served(url, folder, scores, tolerance)
    except VerificationError as error:
        findings.append(f"vLLM was not compared: {error}")
        return None
    findings += served.findings
    return served


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
