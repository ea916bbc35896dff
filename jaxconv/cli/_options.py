"""The options that several commands share, each declared once and in the panel of the help that it belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Optional

import typer

from jaxconv.cli import _words as words
from jaxconv.cli._output import json_list
from jaxconv.json_files import JsonDict, JsonObject

SOURCE, ANSWERS, PROMPT = "Source", "Answer tokens and head", "Prompt"
COMPUTE, OUTPUT, HUB, HOSTS = "Where it runs", "Output", "Hub", "Several hosts"

Source = Annotated[str, typer.Argument(help="Directory, hub id or address of the causal LM.", show_default=False)]
Base = Annotated[
    Optional[str],
    typer.Option(help="Model whose config and tokenizer are used, for sources of weights only.", rich_help_panel=SOURCE),
]
Layout = Annotated[
    Optional[str], typer.Option(help="Layout of the tensor names; detected by default.", rich_help_panel=SOURCE)
]
Step = Annotated[
    Optional[int], typer.Option(help="Step of a checkpoint manager's root; the newest by default.", rich_help_panel=SOURCE)
]
Adapter = Annotated[
    Optional[str], typer.Option(help="Directory or address of a PEFT LoRA adapter to merge.", rich_help_panel=SOURCE)
]
Dequantize = Annotated[
    bool,
    typer.Option("--dequantize", help="Make bfloat16 numbers of arrays that AQT or Qwix quantised.", rich_help_panel=SOURCE),
]
TextOnly = Annotated[
    bool,
    typer.Option(
        "--text-only",
        help="Of a model of pictures and text take the language model alone, exact for text.",
        rich_help_panel=SOURCE,
    ),
]

Preset = Annotated[
    Optional[str],
    typer.Option(
        help="A known reranker; `jaxconv presets` lists them.",
        rich_help_panel=ANSWERS,
        autocompletion=words.complete_presets,
    ),
]
Method = Annotated[
    Optional[str],
    typer.Option(
        help=f"{' or '.join(words.METHODS)}: the difference of two rows, or the rows as they are.",
        rich_help_panel=ANSWERS,
        **(words.one_of(words.METHODS) | {"metavar": "NAME"}),
    ),
]
Tokens = Annotated[
    Optional[str],
    typer.Option("--classifier-from-tokens", help='JSON, false first: \'["no","yes"]\'.', rich_help_panel=ANSWERS),
]
TokenIds = Annotated[
    Optional[str], typer.Option(help="JSON list of token ids instead, false first.", rich_help_panel=ANSWERS)
]
Activation = Annotated[
    str,
    typer.Option(
        help=f"What servers apply to the logit: {', '.join(words.ACTIVATIONS)}.",
        rich_help_panel=ANSWERS,
        **(words.one_of(words.ACTIVATIONS) | {"metavar": "NAME"}),
    ),
]
Calibrate = Annotated[
    bool, typer.Option("--calibrate", help="Fold the preset's calibration into the head.", rich_help_panel=ANSWERS)
]
Scale = Annotated[float, typer.Option(help="score = scale x logit + bias.", rich_help_panel=ANSWERS)]
Bias = Annotated[float, typer.Option(help="score = scale x logit + bias.", rich_help_panel=ANSWERS)]
AllowApproximate = Annotated[
    bool,
    typer.Option(
        "--allow-approximate",
        help="Allow conversions that keep the ranking but not the exact scores.",
        rich_help_panel=ANSWERS,
    ),
]

Template = Annotated[
    Optional[str],
    typer.Option(help="Jinja file of the prompt: query, document, instruction.", rich_help_panel=PROMPT),
]
AllowRemoteImages = Annotated[
    bool, typer.Option("--allow-remote-images", help="Fetch pictures over http and https.", rich_help_panel=PROMPT)
]

Consumers = Annotated[
    str,
    typer.Option(
        help="Who loads the output: vllm, sentence-transformers, or both with a comma between them.",
        metavar="NAME[,NAME]",
        rich_help_panel=OUTPUT,
    ),
]
Dtype = Annotated[
    Optional[str],
    typer.Option(
        help="Cast the backbone, never the head; as stored by default.",
        rich_help_panel=OUTPUT,
        **words.one_of(words.DTYPES),
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=OUTPUT)]

Backend = Annotated[
    str,
    typer.Option(help="What computes the head.", rich_help_panel=COMPUTE, **words.one_of(words.BACKENDS)),
]
Device = Annotated[str, typer.Option(help="The device it runs on.", rich_help_panel=COMPUTE, **words.one_of(words.DEVICES))]

Revision = Annotated[Optional[str], typer.Option(help="Branch, tag or commit on the hub.", rich_help_panel=HUB)]
HubToken = Annotated[Optional[str], typer.Option(help="Hub token.", rich_help_panel=HUB)]
Offline = Annotated[bool, typer.Option("--offline", help="Use only the hub's cache.", rich_help_panel=HUB)]


def examples(*lines: str) -> str:
    """The end of a command's help.

    Args:
        lines: Commands that work, one each.
    """
    return "\n\n".join(("Examples:", *lines))


def arguments_of(function: Callable[..., object], options: JsonObject) -> JsonDict:
    """The options of a command that an API function takes under the same name, lists parsed from JSON.

    Args:
        function: The API function.
        options: The command's options by name.

    Raises:
        UsageError: A list is not JSON.
    """
    arguments = {name: options[name] for name in inspect.signature(function).parameters if name in options}
    for name in ("classifier_from_tokens", "token_ids"):
        if name in arguments:
            arguments[name] = json_list(f"--{name.replace('_', '-')}", arguments[name])
    return arguments
