"""`jaxconv inspect SOURCE`."""

from __future__ import annotations

from typing import Optional

import typer

from jaxconv.cli._output import human_bytes, json_list, print_json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("inspect")(inspect)


def inspect(
    source: str = typer.Argument(..., help="Folder, hub id or URI of the causal LM."),
    preset: Optional[str] = typer.Option(None, help="A known reranker, see `jaxconv presets`."),
    method: Optional[str] = typer.Option(None, help="from_2_way_softmax or no_post_processing."),
    classifier_from_tokens: Optional[str] = typer.Option(None, help='JSON, false first: \'["no","yes"]\'.'),
    token_ids: Optional[str] = typer.Option(None, help="JSON list of ids instead, false first."),
    base: Optional[str] = typer.Option(None, help="Config and tokenizer for sources of weights only."),
    layout: Optional[str] = typer.Option(None, help="Overrides the detected layout."),
    step: Optional[int] = typer.Option(None, help="Step of a checkpoint manager's root."),
    adapter: Optional[str] = typer.Option(None, help="PEFT LoRA adapter that is merged on the way."),
    template: Optional[str] = typer.Option(None, help="Jinja file of the prompt: query, document, instruction."),
    revision: Optional[str] = typer.Option(None, help="Branch, tag or commit on the hub."),
    token: Optional[str] = typer.Option(None, help="Hub token."),
    offline: bool = typer.Option(False, "--offline", help="Use only the hub's cache."),
    json: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """Say what a source is and what convert would do. Reads headers only."""
    import jaxconv

    found = jaxconv.inspect(
        source,
        preset=preset,
        method=method,
        classifier_from_tokens=json_list("--classifier-from-tokens", classifier_from_tokens),
        token_ids=json_list("--token-ids", token_ids),
        base=base,
        layout=layout,
        step=step,
        adapter=adapter,
        template=template,
        revision=revision,
        token=token,
        offline=offline,
    )
    if json:
        print_json(found)
        return
    prompt = found.pop("prompt", None)
    for key, value in found.items():
        if key == "bytes" and value is not None:
            value = human_bytes(value)
        if isinstance(value, list):
            value = "; ".join(str(item) for item in value) or "none"
        print(f"{key:20} {value}")
    if prompt is not None:
        print("prompt, a line each between bars:")
        print("\n".join(f"  |{line}|" for line in prompt.split("\n")))
