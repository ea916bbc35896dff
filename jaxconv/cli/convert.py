"""`jaxconv convert SOURCE OUTPUT`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from jaxconv.cli import _options as option
from jaxconv.cli import _words as words
from jaxconv.cli._output import print_after_publication, print_warnings, progress_bar, to_json, warnings_printed_here
from jaxconv.cli._question import ask_preset
from jaxconv.cli._summary import summary, warnings_of
from jaxconv.errors import TokensUnknown, UsageError

EXAMPLES = option.examples(
    "jaxconv convert Qwen/Qwen3-Reranker-0.6B ./reranker --verify",
    'jaxconv convert ./my-reranker ./out --classifier-from-tokens \'["no","yes"]\' --template prompt.jinja',
    "jaxconv convert gs://bucket/run ./out --base Qwen/Qwen3-Reranker-0.6B --preset qwen3-reranker",
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("convert", epilog=EXAMPLES)(convert)


def convert(
    source: Annotated[
        Optional[str], typer.Argument(help="Directory, hub id or address (gs://, s3://, az://, hf://) of the causal LM.")
    ] = None,
    output: Annotated[Optional[str], typer.Argument(help="Directory or address to create.")] = None,
    model_name: Annotated[
        Optional[str],
        typer.Option("--model-name", help="SOURCE, as in vLLM's script.", rich_help_panel=option.SOURCE),
    ] = None,
    path: Annotated[
        Optional[str], typer.Option("--path", help="OUTPUT, as in vLLM's script.", rich_help_panel=option.OUTPUT)
    ] = None,
    base: option.Base = None,
    layout: option.Layout = None,
    step: option.Step = None,
    adapter: option.Adapter = None,
    dequantize: option.Dequantize = False,
    text_only: option.TextOnly = False,
    preset: option.Preset = None,
    method: option.Method = None,
    classifier_from_tokens: option.Tokens = None,
    token_ids: option.TokenIds = None,
    activation: option.Activation = "auto",
    calibrate: option.Calibrate = False,
    scale: option.Scale = 1.0,
    bias: option.Bias = 0.0,
    allow_approximate: option.AllowApproximate = False,
    template: option.Template = None,
    use_sep_token: Annotated[
        bool,
        typer.Option(
            "--use-sep-token",
            help="Write use_sep_token and use_pad_token of config.json as true.",
            rich_help_panel=option.PROMPT,
        ),
    ] = False,
    use_pad_token: Annotated[
        bool,
        typer.Option("--use-pad-token", help="The same, as in vLLM's script.", rich_help_panel=option.PROMPT),
    ] = False,
    consumers: option.Consumers = "vllm",
    dtype: option.Dtype = None,
    copy_mode: Annotated[
        str,
        typer.Option(
            help="What is done with shards that need no change.",
            rich_help_panel=option.OUTPUT,
            **words.one_of(words.COPY_MODES),
        ),
    ] = "copy",
    max_shard_size: Annotated[
        str, typer.Option(help="Shard size of sources that must be rewritten.", rich_help_panel=option.OUTPUT)
    ] = "5GB",
    hash: Annotated[
        bool, typer.Option("--hash", help="Record the sha256 of every file.", rich_help_panel=option.OUTPUT)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a former output.", rich_help_panel=option.OUTPUT)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan and compute the head, write nothing.", rich_help_panel=option.OUTPUT)
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Prove the result against the source before it is published.", rich_help_panel=option.OUTPUT
        ),
    ] = False,
    json: option.Json = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Print no summary and no progress; warnings stay.", rich_help_panel=option.OUTPUT),
    ] = False,
    backend: option.Backend = "auto",
    device: option.Device = "auto",
    revision: option.Revision = None,
    token: option.HubToken = None,
    offline: option.Offline = False,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="Share the work with the same command on other hosts; OUTPUT is on a shared disk.",
            rich_help_panel=option.HOSTS,
        ),
    ] = False,
    coordinator: Annotated[
        Optional[str],
        typer.Option(help="HOST:PORT of process 0; needed outside pods and clusters.", rich_help_panel=option.HOSTS),
    ] = None,
    num_processes: Annotated[
        Optional[int],
        typer.Option(help="How many processes there are; needed outside pods and clusters.", rich_help_panel=option.HOSTS),
    ] = None,
    process_id: Annotated[
        Optional[int],
        typer.Option(help="Which of them this is, from 0; needed outside pods and clusters.", rich_help_panel=option.HOSTS),
    ] = None,
    heartbeat_timeout: Annotated[
        Optional[int],
        typer.Option(
            help="Seconds without a sign of life after which a process is lost; JAX's 100.", rich_help_panel=option.HOSTS
        ),
    ] = None,
) -> None:
    """Turn a causal-LM reranker into a sequence classifier."""
    options = dict(locals())
    import jaxconv

    arguments = option.arguments_of(jaxconv.convert, options) | {
        "consumers": [name.strip() for name in consumers.split(",") if name.strip()],
        "use_sep_token": use_sep_token or use_pad_token,
        "source": _once("SOURCE", source, "--model_name", model_name),
        "output": _once("OUTPUT", output, "--path", path),
    }
    with warnings_printed_here(), progress_bar(quiet or json) as progress:
        try:
            result = jaxconv.convert(**arguments, progress=progress)
        except TokensUnknown as unknown:
            answer = None if json or quiet or distributed else ask_preset(unknown.presets)
            if answer is None:
                raise
            result = jaxconv.convert(**{**arguments, "preset": answer}, progress=progress)
    if result.process_id != 0:
        return  # the first process speaks for all
    print_result = print if result.output is None else print_after_publication
    if json:
        print_result(to_json(result.to_json()))
    elif quiet:
        print_warnings(warnings_of(result.plan))
    else:
        print_result(summary(result, copy_mode))


def _once(word: str, value: str | None, flag: str, alias: str | None) -> str:
    """The value of an argument that has an alias."""
    if value is not None and alias is not None:
        raise UsageError(f"{word} and {flag} are the same. Give it once, as an argument or with {flag}.")
    if value is None and alias is None:
        raise UsageError(f"{word} is missing. Give it once, as an argument or with {flag}.")
    return value if value is not None else alias or ""
