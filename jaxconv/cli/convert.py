"""`jaxconv convert SOURCE OUTPUT`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from jaxconv.cli import _options as option
from jaxconv.cli._output import print_after_publication, progress_bar, to_json
from jaxconv.cli._question import ask_preset
from jaxconv.cli._summary import summary
from jaxconv.errors import TokensUnknown, UsageError


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("convert")(convert)


def convert(
    source: Annotated[
        Optional[str], typer.Argument(help="Directory, hub id or address (gs://, s3://, az://, hf://) of the causal LM.")
    ] = None,
    output: Annotated[Optional[str], typer.Argument(help="Directory or address to create.")] = None,
    model_name: Annotated[
        Optional[str], typer.Option("--model_name", "--model-name", help="SOURCE, as in vLLM's script.")
    ] = None,
    path: Annotated[Optional[str], typer.Option("--path", help="OUTPUT, as in vLLM's script.")] = None,
    preset: option.Preset = None,
    method: option.Method = None,
    classifier_from_tokens: option.Tokens = None,
    token_ids: option.TokenIds = None,
    use_sep_token: Annotated[
        bool, typer.Option("--use-sep-token", "--use-pad-token", help="Write these keys of config.json as true.")
    ] = False,
    consumers: option.Consumers = "vllm",
    backend: Annotated[str, typer.Option(help="What computes the head: auto, jax, torch or numpy.")] = "auto",
    device: option.Device = "auto",
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
    copy_mode: Annotated[
        str, typer.Option(parser=option.spelled, metavar="TEXT", help="copy, link or reflink shards that need no change.")
    ] = "copy",
    max_shard_size: Annotated[str, typer.Option(help="Shard size of sources that must be rewritten.")] = "5GB",
    allow_approximate: option.AllowApproximate = False,
    hash: Annotated[bool, typer.Option("--hash", help="Record the sha256 of every file.")] = False,
    revision: option.Revision = None,
    token: option.HubToken = None,
    offline: option.Offline = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a former output.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan and compute the head, write nothing.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Prove the result against the source before it is published.")
    ] = False,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed", help="Share the work with the same command on other hosts; OUTPUT is on a shared disk."
        ),
    ] = False,
    coordinator: Annotated[
        Optional[str], typer.Option(help="HOST:PORT of process 0; needed outside pods and clusters.")
    ] = None,
    num_processes: Annotated[
        Optional[int], typer.Option(help="How many processes there are; needed outside pods and clusters.")
    ] = None,
    process_id: Annotated[
        Optional[int], typer.Option(help="Which of them this is, from 0; needed outside pods and clusters.")
    ] = None,
    heartbeat_timeout: Annotated[
        Optional[int], typer.Option(help="Seconds without a sign of life after which a process is lost; JAX's 100.")
    ] = None,
    json: option.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no summary and no progress.")] = False,
) -> None:
    """Turn a causal-LM reranker into a sequence classifier."""
    options = dict(locals())
    import jaxconv

    arguments = option.arguments_of(jaxconv.convert, options) | {
        "consumers": [name.strip() for name in consumers.split(",") if name.strip()],
        "source": _once("SOURCE", source, "--model_name", model_name),
        "output": _once("OUTPUT", output, "--path", path),
    }
    with progress_bar(quiet or json) as progress:
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
    elif not quiet:
        print_result(summary(result, copy_mode))


def _once(word: str, value: str | None, flag: str, alias: str | None) -> str:
    """The value of an argument that has an alias."""
    if value is not None and alias is not None:
        raise UsageError(f"{word} and {flag} are the same. Give it once, as an argument or with {flag}.")
    if value is None and alias is None:
        raise UsageError(f"{word} is missing. Give it once, as an argument or with {flag}.")
    return value if value is not None else alias or ""
