"""`jaxconv convert SOURCE OUTPUT`."""

from __future__ import annotations

from functools import partial
from typing import Any, Optional

import typer

from jaxconv.cli._output import human_bytes, json_list, print_after_publication, progress_line, to_json
from jaxconv.cli._question import ask_preset
from jaxconv.errors import TokensUnknown, UsageError


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("convert")(convert)


def convert(
    source: Optional[str] = typer.Argument(None, help="Folder, hub id or URI of the causal LM."),
    output: Optional[str] = typer.Argument(None, help="Folder to make."),
    model_name: Optional[str] = typer.Option(None, "--model_name", "--model-name", help="SOURCE, as in vLLM's script."),
    path: Optional[str] = typer.Option(None, "--path", help="OUTPUT, as in vLLM's script."),
    preset: Optional[str] = typer.Option(None, help="A known reranker, see `jaxconv presets`."),
    method: Optional[str] = typer.Option(None, help="from_2_way_softmax or no_post_processing."),
    classifier_from_tokens: Optional[str] = typer.Option(
        None, "--classifier-from-tokens", "--classifier_from_tokens", help='JSON, false first: \'["no","yes"]\'.'
    ),
    token_ids: Optional[str] = typer.Option(None, help="JSON list of ids instead, false first."),
    use_sep_token: bool = typer.Option(False, "--use-sep-token", "--use-pad-token", help="Write these keys true."),
    backend: str = typer.Option("auto", help="auto, jax, torch or numpy."),
    device: str = typer.Option("auto", help="auto, cpu, gpu or tpu."),
    base: Optional[str] = typer.Option(None, help="Config and tokenizer for sources of weights only."),
    layout: Optional[str] = typer.Option(None, help="Overrides the detected layout."),
    step: Optional[int] = typer.Option(None, help="Step of a checkpoint manager's root; default the newest."),
    adapter: Optional[str] = typer.Option(None, help="PEFT LoRA adapter that is merged on the way."),
    dtype: Optional[str] = typer.Option(None, help="Cast the backbone: float32, bfloat16 or float16."),
    template: Optional[str] = typer.Option(None, help="Jinja file of the prompt: query, document, instruction."),
    activation: str = typer.Option("auto", help="auto, sigmoid or identity."),
    calibrate: bool = typer.Option(False, "--calibrate", help="Fold the preset's calibration into the head."),
    scale: float = typer.Option(1.0, help="score = scale x logit + bias."),
    bias: float = typer.Option(0.0, help="score = scale x logit + bias."),
    copy_mode: str = typer.Option("copy", help="copy, link or reflink untouched shards."),
    max_shard_size: str = typer.Option("5GB", help="For sources that must be rewritten."),
    allow_approximate: bool = typer.Option(False, "--allow-approximate", help="Let pass what keeps only the order."),
    hash: bool = typer.Option(False, "--hash", help="Record the sha256 of every weight file."),
    revision: Optional[str] = typer.Option(None, help="Branch, tag or commit on the hub."),
    token: Optional[str] = typer.Option(None, help="Hub token."),
    offline: bool = typer.Option(False, "--offline", help="Use only the hub's cache."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace a former output."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Plan and compute the head, write nothing."),
    verify: bool = typer.Option(False, "--verify", help="Prove the result against the source before it is published."),
    distributed: bool = typer.Option(
        False, "--distributed", help="Started on every host of a pod: they share the work. OUTPUT on a file system all see."
    ),
    coordinator: Optional[str] = typer.Option(None, help="HOST:PORT of process 0, outside pods and clusters."),
    num_processes: Optional[int] = typer.Option(None, help="How many processes, outside pods and clusters."),
    process_id: Optional[int] = typer.Option(None, help="Which of them this is, from 0."),
    json: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
    quiet: bool = typer.Option(False, "--quiet", help="No summary, no progress."),
) -> None:
    """Turn a causal-LM reranker into a sequence classifier."""
    import jaxconv

    convert_as = partial(
        jaxconv.convert,
        _one("SOURCE", source, "--model_name", model_name),
        _one("OUTPUT", output, "--path", path),
        method=method,
        classifier_from_tokens=json_list("--classifier-from-tokens", classifier_from_tokens),
        token_ids=json_list("--token-ids", token_ids),
        use_sep_token=use_sep_token,
        backend=backend,
        device=device,
        base=base,
        layout=layout,
        step=step,
        adapter=adapter,
        dtype=dtype,
        template=template,
        activation=activation,
        calibrate=calibrate,
        scale=scale,
        bias=bias,
        copy_mode=copy_mode,
        max_shard_size=max_shard_size,
        allow_approximate=allow_approximate,
        hash=hash,
        revision=revision,
        token=token,
        offline=offline,
        overwrite=overwrite,
        dry_run=dry_run,
        verify=verify,
        distributed=distributed,
        coordinator=coordinator,
        num_processes=num_processes,
        process_id=process_id,
        progress=progress_line(quiet or json),
    )
    try:
        result = convert_as(preset=preset)
    except TokensUnknown as unknown:
        answer = None if json or quiet or distributed else ask_preset(unknown.presets)
        if answer is None:
            raise
        result = convert_as(preset=answer)
    if result.process_id != 0:
        return  # the first speaks for all
    print_result = print if result.output is None else print_after_publication
    if json:
        print_result(to_json(result.to_json()))
    elif not quiet:
        print_result(summary(result, copy_mode))


def _one(word: str, value: str | None, flag: str, alias: str | None) -> str:
    if (value is None) == (alias is None):
        raise UsageError(f"{word} was given {'twice' if value else 'not at all'}; expected it once, or {flag}.")
    return value or alias or ""


def summary(result: Any, copy_mode: str) -> str:
    """What was done, for people."""
    from jaxconv.bundle.card import serve_command

    plan, model = result.plan, result.plan.model
    tokens = ", ".join(f"{token.text!r} ({token.id})" for token in plan.tokens)
    order = " (false first, true second)" if len(plan.tokens) == 2 else ""
    head = f"F32 [{plan.num_labels}, {plan.hidden_size}] from {plan.model.lm_head.weight.name}"
    lines = [
        f"{model.family.architecture} -> {model.family.target_architecture}  [{model.format}, layout {model.layout}]",
        f"tokens      {tokens}{order}, {plan.method}"
        + (f", preset {plan.preset} by {plan.preset_origin}" if plan.preset else ""),
        f"head        {head} by {result.backend} on {result.device}",
        f"activation  {plan.activation}, score = {plan.calibration.scale:g} x logit {plan.calibration.bias:+g}",
        "files       " + ", ".join(f"{name} ({how})" for name, how in result.files.items()),
        f"size        {human_bytes(result.nbytes)} in {result.seconds:.2f} s",
    ]
    if plan.dtype is not None:
        stored = sorted({ref.dtype for ref in plan.model.checkpoint.tensors.values()} - {plan.dtype})
        lines.append(f"dtype       backbone cast from {', '.join(stored) or plan.dtype} to {plan.dtype}; the head stays F32")
    if plan.pad_token is not None and plan.pad_token.added:
        lines.append(f"pad token   {plan.pad_token.text!r} ({plan.pad_token.id}) added: the tokenizer had none")
    if copy_mode != "copy" and "copy" in result.files.values():
        lines.append(f"note        the file system cannot {copy_mode} from the source; those files were copied instead")
    if result.report is not None:
        scores = result.report.scores
        lines.append(f"verified    raw scores of {scores.pairs} pairs by {scores.backend} to {scores.max_abs_error:.1e}")
    lines += [f"warning     {warning}" for warning in plan.warnings]
    if result.output is not None:
        lines.append(f"serve       {serve_command(plan, str(result.output))}")
    return "\n".join(lines)
