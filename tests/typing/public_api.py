"""A program that uses the whole public API; it is type-checked by `mypy --strict`, never run."""

from __future__ import annotations

from pathlib import Path

import jaxconv
from jaxconv import ConversionResult, JaxconvError, Ranked, Report, Scorer, TokensUnknown


def convert_and_score(source: Path, output: Path, params: object) -> list[float]:
    """Every public function with typed arguments and results."""
    description = jaxconv.inspect(source, classifier_from_tokens=["no", "yes"], template=Path("prompt.jinja"))
    convertible: bool = description["convertible"]
    result: ConversionResult = jaxconv.convert(
        source,
        output,
        method="from_2_way_softmax",
        token_ids=(2152, 9693),
        backend="jax",
        device="cpu",
        dtype="bfloat16",
        scale=0.5,
        bias=-1.0,
        copy_mode="link",
        verify=convertible,
        progress=lambda done, total: None,
    )
    files: list[str] = list(result.files)
    live: ConversionResult = jaxconv.convert_params(params, output / "live", base=source, layout="nnx")
    report: Report = jaxconv.verify(source, output, pairs=[("query", "document")], tolerance=1e-4)
    passed: bool = report.passed
    model: Scorer = jaxconv.load(output, backend="jax", dtype="float32")
    best: list[Ranked] = model.rank("query", files, top_k=3)
    files += [row.document for row in best]
    scores: list[float] = model.score("query", ["document", *files], raw=passed)
    return scores if live.output else []


def presets_of(source: str) -> tuple[str, ...]:
    """Errors carry typed facts."""
    try:
        jaxconv.convert(source, "out")
    except TokensUnknown as error:
        return error.presets
    except JaxconvError as error:
        raise SystemExit(error.exit_code) from error
    return (jaxconv.__version__,)
