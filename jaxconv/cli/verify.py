"""`jaxconv verify SOURCE OUTPUT`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from jaxconv.cli import _options as option
from jaxconv.cli._output import print_json

if TYPE_CHECKING:
    from jaxconv.verification import Report


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("verify")(verify)


def verify(
    source: option.Source,
    output: Annotated[str, typer.Argument(help="Directory that convert wrote.")],
    pairs: Annotated[Optional[str], typer.Option(help='JSONL of {"query", "document"}; default a built-in set.')] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="auto (two implementations where JAX and transformers are installed), jax or torch (one for both sides)."
        ),
    ] = "auto",
    device: option.Device = "auto",
    tolerance: Annotated[
        Optional[float],
        typer.Option(help="Largest difference of a raw score, with --against-vllm of the server's; default from float32."),
    ] = None,
    structure_only: Annotated[
        bool, typer.Option("--structure-only", help="Compare tensors and files, run no model.")
    ] = False,
    report: Annotated[
        Optional[str], typer.Option(help="Directory for report.html and report.json, written whatever is found.")
    ] = None,
    against_vllm: Annotated[
        Optional[str],
        typer.Option(help="Address of a vLLM server of OUTPUT, whose raw scores are compared too; VLLM_API_KEY is its key."),
    ] = None,
    server_dtype: Annotated[
        Optional[str],
        typer.Option(
            help="What that server runs in: float32, bfloat16 or float16; default float32, config.json's if packed."
        ),
    ] = None,
    allow_remote_images: option.AllowRemoteImages = False,
    classifier_from_tokens: option.Tokens = None,
    token_ids: option.TokenIds = None,
    preset: option.Preset = None,
    method: option.Method = None,
    template: Annotated[Optional[str], typer.Option(help="Jinja file that the output's prompt must come from.")] = None,
    base: option.Base = None,
    layout: option.Layout = None,
    step: option.Step = None,
    adapter: option.Adapter = None,
    revision: option.Revision = None,
    token: option.HubToken = None,
    offline: option.Offline = False,
    json: option.Json = False,
) -> int:
    """Prove that a converted directory is its source: tensors, head, files, prompts and scores. Exit code 1 if it is not."""
    options = dict(locals())
    import jaxconv

    result = jaxconv.verify(**option.arguments_of(jaxconv.verify, options))
    if json:
        print_json(result.to_json())
    else:
        print(summary(result))
    return 0 if result.passed else 1


def summary(report: Report) -> str:
    """The report, for people."""
    structure, head, scores, vllm = report.structure, report.head, report.scores, report.vllm
    error = "" if head.max_abs_error is None else f", largest difference {head.max_abs_error:.3g}"
    lines = [
        f"structure   {structure.identical} of {structure.tensors} backbone tensors are the source's",
        f"head        {'the rows of the source' if head.exact else 'NOT the rows of the source'}{error}",
    ]
    if scores is None:
        lines.append("scores      not compared")
    else:
        lines += [
            f"scores      {scores.pairs} pairs by {scores.backend} ({KINDS[scores.kind]}): largest difference "
            f"{scores.max_abs_error:.3g}, {scores.rank_agreement:.1%} in the same order",
            f"tolerance   {scores.tolerance:.3g}: {scores.tolerance_reason}",
        ]
        if scores.pictures is not None:
            lines.append(
                f"pictures    in {scores.pictures.pairs} of these pairs, by {scores.pictures.backend} "
                f"({KINDS[scores.pictures.kind]}): largest difference {scores.pictures.max_abs_error:.3g}"
            )
    if vllm is not None:
        lines += [
            f"vllm        {vllm.pairs} pairs by {vllm.url}: largest difference {vllm.max_abs_error:.3g}, "
            f"{vllm.rank_agreement:.1%} in the same order",
            f"tolerance   {vllm.tolerance:.3g}: {vllm.tolerance_reason}",
        ]
    lines += [f"note        {note}" for note in report.notes]
    lines += [f"wrong       {finding}" for finding in report.findings]
    lines.append("passed" if report.passed else "FAILED")
    return "\n".join(lines)


# What the kind of a comparison of scores means.
KINDS = {
    "independent": "independent: two implementations",
    "consistency": "a consistency check: one implementation computed both sides",
}
