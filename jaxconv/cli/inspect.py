"""`jaxconv inspect SOURCE`."""

from __future__ import annotations

import typer

from jaxconv.cli import _options as option
from jaxconv.cli._output import human_bytes, print_json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("inspect")(inspect)


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
    json: option.Json = False,
) -> None:
    """Say what a source is and what convert would do. Reads headers only."""
    options = dict(locals())
    import jaxconv

    description = jaxconv.inspect(**option.arguments_of(jaxconv.inspect, options))
    if json:
        print_json(description)
        return
    prompt = description.get("prompt")
    for key, value in description.items():
        if key == "prompt":
            continue
        if key == "bytes" and isinstance(value, int):
            value = human_bytes(value)
        if isinstance(value, list):
            value = "; ".join(str(item) for item in value) or "none"
        print(f"{key:20} {value}")
    if prompt is not None:
        print("prompt, each line between bars:")
        print("\n".join(f"  |{line}|" for line in prompt.split("\n")))
