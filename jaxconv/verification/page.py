"""The report as files: report.html, one self-contained page, and report.json with all its numbers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jaxconv.errors import OutputError
from jaxconv.json_files import JsonDict
from jaxconv.verification import charts
from jaxconv.verification.report import Report
from jaxconv.version import __version__

PAGE, NUMBERS = "report.html", "report.json"
WORST = 25  # rows of the page's table; the JSON has all


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two columns of raw scores, and how far apart they may be."""

    title: str
    x_name: str
    y_name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    tolerance: float
    rank_agreement: float

    @property
    def errors(self) -> tuple[float, ...]:
        """y - x."""
        return tuple(b - a for a, b in zip(self.x, self.y, strict=True))

    @property
    def unusable(self) -> int:
        """How many differences are not finite, and in no chart."""
        return sum(not math.isfinite(error) for error in self.errors)


def prepare(folder: Path) -> Path:
    """Creates the report's directory `folder`, before any work is done, and returns it.

    Raises:
        OutputError: It cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--report {folder} cannot be created ({error}); expected a directory, new or old.") from None
    if not os.access(folder, os.W_OK):
        raise OutputError(f"--report {folder} cannot be written to; expected a directory that you may write to.")
    return folder


def write_report(folder: Path, report: Report, source: str, output: str) -> None:
    """Writes report.json and report.html. The same report gives the same bytes.

    Args:
        folder: The directory of the report, which exists.
        report: What the verification found.
        source: The name of the source.
        output: The name of the output.

    Raises:
        OutputError: A file cannot be written.
    """
    document = {"source": source, "output": output, **report.to_json(), "pairs": list(report.rows())}
    try:
        (folder / NUMBERS).write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        (folder / PAGE).write_text(page(report, source, output), "utf-8")
    except OSError as error:
        verdict = "passed" if report.passed else "FAILED: " + " ".join(report.findings)
        raise OutputError(f"--report {folder} cannot be written ({error}). The verification {verdict}.") from None


def page(report: Report, source: str, output: str) -> str:
    """The HTML page: verdict, findings, numbers, charts, and the pairs that differ most.

    Args:
        report: What the verification found.
        source: The name of the source.
        output: The name of the output.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: _text(value, ".6f")
    environment.filters["small"] = lambda value: _text(value, ".2e")
    rows = list(report.rows())
    worst = sorted(rows, key=_error, reverse=True)
    text = (files(__package__) / "page.html.jinja").read_text("utf-8")
    return environment.from_string(text).render(
        report=report, source=source, output=output, version=__version__, charts=charts, count=len(rows), worst=worst[:WORST],
        drawn=[_drawn(comparison, report) for comparison in comparisons(report)],
    )  # fmt: skip


def _text(value: float | None, form: str) -> str:
    if value is None or not math.isfinite(value):
        return "not finite"
    return format(value, form) if value else "0"


def _error(row: JsonDict) -> float:
    """The larger difference of a row; one that is not finite counts as infinite."""
    return max(math.inf if row[key] is None else abs(row[key]) for key in ("error", "vllm_error") if key in row)


def comparisons(report: Report) -> Iterator[Comparison]:
    """What the page charts of `report`: output against source, then vLLM against output; nothing without scores."""
    scores, vllm = report.scores, report.vllm
    if scores is None:
        return
    source = tuple(value for row in scores.source for value in row)
    output = tuple(value for row in scores.output for value in row)
    yield Comparison(
        "Classifier against causal LM", "logit of the source", "score of the output",
        source, output, scores.tolerance, scores.rank_agreement,
    )  # fmt: skip
    if vllm is not None:
        yield Comparison(
            "vLLM against classifier", "score of the output, here", "score of the output, in vLLM",
            output, vllm.scores, vllm.tolerance, vllm.rank_agreement,
        )  # fmt: skip


def _drawn(comparison: Comparison, report: Report) -> JsonDict:
    """A comparison with its charts."""
    texts = [f"{row['query']:.60} / {row['document']:.60}" for row in report.rows()]
    return {
        "of": comparison,
        "scatter": charts.scatter(comparison.x, comparison.y, comparison.tolerance, texts),
        "histogram": charts.histogram(comparison.errors, comparison.tolerance),
    }
