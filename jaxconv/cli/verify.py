"""`jaxconv verify SOURCE OUTPUT`."""

from __future__ import annotations

from typing import Any, Optional

import typer

from jaxconv.cli._output import json_list, print_json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("verify")(verify)


def verify(
    source: str = typer.Argument(..., help="Folder, hub id or URI of the causal LM."),
    output: str = typer.Argument(..., help="Folder that convert wrote."),
    pairs: Optional[str] = typer.Option(None, help='JSONL of {"query", "document"}; default a built-in set.'),
    backend: str = typer.Option("auto", help="auto, jax or torch: what runs both models."),
    device: str = typer.Option("auto", help="auto, cpu, gpu or tpu."),
    tolerance: Optional[float] = typer.Option(
        None, help="Largest difference of a raw score, with --against-vllm of the server's; default from float32."
    ),
    structure_only: bool = typer.Option(False, "--structure-only", help="Compare bytes and files, run no model."),
    report: Optional[str] = typer.Option(None, help="Folder for report.html and report.json, written whatever the result."),
    against_vllm: Optional[str] = typer.Option(
        None, help="Address of a vLLM server of OUTPUT, whose raw scores are compared too; VLLM_API_KEY is its key."
    ),
    classifier_from_tokens: Optional[str] = typer.Option(
        None, "--classifier-from-tokens", "--classifier_from_tokens", help='JSON, false first: \'["no","yes"]\'.'
    ),
    token_ids: Optional[str] = typer.Option(None, help="JSON list of ids instead, false first."),
    preset: Optional[str] = typer.Option(None, help="A known reranker, see `jaxconv presets`."),
    method: Optional[str] = typer.Option(None, help="from_2_way_softmax or no_post_processing."),
    base: Optional[str] = typer.Option(None, help="Config and tokenizer for sources of weights only."),
    layout: Optional[str] = typer.Option(None, help="Overrides the detected layout."),
    step: Optional[int] = typer.Option(None, help="Step of a checkpoint manager's root."),
    adapter: Optional[str] = typer.Option(None, help="PEFT LoRA adapter that is merged on the way."),
    revision: Optional[str] = typer.Option(None, help="Branch, tag or commit on the hub."),
    token: Optional[str] = typer.Option(None, help="Hub token."),
    offline: bool = typer.Option(False, "--offline", help="Use only the hub's cache."),
    json: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> int:
    """Prove that a converted folder is its source: every bit, the head, the files, and the scores."""
    import jaxconv

    found = jaxconv.verify(
        source,
        output,
        pairs=pairs,
        backend=backend,
        device=device,
        tolerance=tolerance,
        structure_only=structure_only,
        report=report,
        against_vllm=against_vllm,
        classifier_from_tokens=json_list("--classifier-from-tokens", classifier_from_tokens),
        token_ids=json_list("--token-ids", token_ids),
        preset=preset,
        method=method,
        base=base,
        layout=layout,
        step=step,
        adapter=adapter,
        revision=revision,
        token=token,
        offline=offline,
    )
    if json:
        print_json(found.to_json())
    else:
        print(summary(found))
    return 0 if found.passed else 1


def summary(report: Any) -> str:
    """The report, for people."""
    structure, head, scores = report.structure, report.head, report.scores
    error = "" if head.max_abs_error is None else f", largest difference {head.max_abs_error:.3g}"
    lines = [
        f"structure   {structure.identical} of {structure.tensors} backbone tensors are the source's, bit for bit",
        f"head        {'the rows of the source' if head.exact else 'NOT the rows of the source'}{error}",
    ]
    if scores is None:
        lines.append("scores      not compared")
    else:
        lines += [
            f"scores      {scores.pairs} pairs by {scores.backend}: largest difference {scores.max_abs_error:.3g}, "
            f"{scores.rank_agreement:.1%} in the same order",
            f"tolerance   {scores.tolerance:.3g}: {scores.tolerance_reason}",
        ]
    if report.vllm is not None:
        vllm = report.vllm
        lines += [
            f"vllm        {vllm.pairs} pairs by {vllm.url}: largest difference {vllm.max_abs_error:.3g}, "
            f"{vllm.rank_agreement:.1%} in the same order",
            f"tolerance   {vllm.tolerance:.3g}: {vllm.tolerance_reason}",
        ]
    lines += [f"wrong       {finding}" for finding in report.findings]
    lines.append("passed" if report.passed else "FAILED")
    return "\n".join(lines)
