"""The options that several commands share, declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Optional

import typer

from jaxconv.cli._output import json_list
from jaxconv.json_files import JsonDict, JsonObject

# What people type -> the word that the API takes.
ALIASES = {
    "bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "cuda": "gpu", "hardlink": "link",
}  # fmt: skip


def spelled(word: str) -> str:
    """The word that the API takes for what was typed; a word without another spelling is itself."""
    return ALIASES.get(word.lower(), word)


Source = Annotated[str, typer.Argument(help="Directory, hub id or address of the causal LM.")]
Preset = Annotated[Optional[str], typer.Option(help="A known reranker, see `jaxconv presets`.")]
Method = Annotated[Optional[str], typer.Option(help="from_2_way_softmax or no_post_processing.")]
Tokens = Annotated[
    Optional[str],
    typer.Option("--classifier-from-tokens", "--classifier_from_tokens", help='JSON, false first: \'["no","yes"]\'.'),
]
TokenIds = Annotated[Optional[str], typer.Option(help="JSON list of token ids instead, false first.")]
Base = Annotated[Optional[str], typer.Option(help="Model whose config and tokenizer are used, for sources of weights only.")]
Layout = Annotated[Optional[str], typer.Option(help="Layout of the tensor names; detected by default.")]
Step = Annotated[Optional[int], typer.Option(help="Step of a checkpoint manager's root; the newest by default.")]
Adapter = Annotated[Optional[str], typer.Option(help="Directory or address of a PEFT LoRA adapter to merge.")]
Dequantize = Annotated[bool, typer.Option("--dequantize", help="Make bfloat16 numbers of arrays that AQT or Qwix quantised.")]
TextOnly = Annotated[
    bool, typer.Option("--text-only", help="Of a model of pictures and text take the language model alone, exact for text.")
]
Consumers = Annotated[
    str, typer.Option(help="Who loads the output: vllm, sentence-transformers, or both with a comma between them.")
]
Template = Annotated[Optional[str], typer.Option(help="Jinja file of the prompt: query, document, instruction.")]
Activation = Annotated[str, typer.Option(help="auto, sigmoid or identity.")]
Calibrate = Annotated[bool, typer.Option("--calibrate", help="Fold the preset's calibration into the head.")]
Scale = Annotated[float, typer.Option(help="score = scale x logit + bias.")]
Bias = Annotated[float, typer.Option(help="score = scale x logit + bias.")]
Dtype = Annotated[
    Optional[str], typer.Option(parser=spelled, metavar="TEXT", help="Cast the backbone: float32, bfloat16 or float16.")
]
AllowApproximate = Annotated[
    bool, typer.Option("--allow-approximate", help="Allow conversions that keep the ranking but not the exact scores.")
]
AllowRemoteImages = Annotated[bool, typer.Option("--allow-remote-images", help="Fetch pictures over http and https.")]
Device = Annotated[str, typer.Option(parser=spelled, metavar="TEXT", help="auto, cpu, gpu or tpu.")]
Revision = Annotated[Optional[str], typer.Option(help="Branch, tag or commit on the hub.")]
HubToken = Annotated[Optional[str], typer.Option(help="Hub token.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use only the hub's cache.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


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
