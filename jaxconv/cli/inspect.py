"""`jaxconv inspect SOURCE`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jaxconv.cli import _options as option
from jaxconv.cli._output import human_bytes, print_json, words_of

if TYPE_CHECKING:
    from jaxconv.inspection import Description

EXAMPLES = option.examples(
    "jaxconv inspect Qwen/Qwen3-Reranker-0.6B",
    'jaxconv inspect ./my-reranker --classifier-from-tokens \'["no","yes"]\' --check',
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("inspect", epilog=EXAMPLES)(inspect)


def inspect(
    source: option.Source,
    preset: option.Preset = None,
    method: option.Method = None,
    classifier_from_tokens: option.Tokens = None,
    token_ids: option.TokenIds = None,
    base: option.Base = None,
    layout: option.Layout = None,
    step: option.Step = None,
    adapter: option.Adapter = None,
    dequantize: option.Dequantize = False,
    text_only: option.TextOnly = False,
    dtype: option.Dtype = None,
    template: option.Template = None,
    activation: option.Activation = "auto",
    calibrate: option.Calibrate = False,
    scale: option.Scale = 1.0,
    bias: option.Bias = 0.0,
    allow_approximate: option.AllowApproximate = False,
    revision: option.Revision = None,
    token: option.HubToken = None,
    offline: option.Offline = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if the source cannot be converted.", rich_help_panel=option.OUTPUT)
    ] = False,
    json: option.Json = False,
) -> int:
    """Say what a source is and what convert would do. Reads headers only."""
    options = dict(locals())
    import jaxconv

    description = jaxconv.inspect(**option.arguments_of(jaxconv.inspect, options))
    if json:
        print_json(description)
    else:
        _print(description)
    return 1 if check and not description["convertible"] else 0


def _print(description: Description) -> None:
    """The description, a line for each key."""
    prompt = description.get("prompt")
    for key, value in description.items():
        if key == "prompt":
            continue
        if key == "bytes" and isinstance(value, int):
            value = human_bytes(value)
        print(f"{key:20} {words_of(value, key)}")
    if prompt is not None:
        print("prompt, each line between bars:")
        print("\n".join(f"  |{line}|" for line in prompt.split("\n")))
