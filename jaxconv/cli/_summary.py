"""What `convert` tells a person."""

from __future__ import annotations

from pathlib import Path

from jaxconv.bundle.card import serve_command
from jaxconv.bundle.quantisation import readers
from jaxconv.cli._output import human_bytes
from jaxconv.conversion import ConversionResult
from jaxconv.model_warnings import NO_TEMPLATE
from jaxconv.plan import Plan
from jaxconv.storage import download_command


def summary(result: ConversionResult, copy_mode: str) -> str:
    """What was done, a line each; the serve command and the warning of a missing template are last."""
    plan, model = result.plan, result.plan.model
    tokens = ", ".join(f"{token.text!r} ({token.id})" for token in plan.tokens)
    order = " (false first, true second)" if len(plan.tokens) == 2 else ""
    preset = f", preset {plan.preset} by {plan.preset_origin}" if plan.preset else ""
    head = f"F32 [{plan.num_labels}, {plan.hidden_size}] from {model.lm_head.weight.name}"
    lines = [
        f"{model.family.architecture} -> {model.family.target_architecture}  [{model.format}, layout {model.layout}]",
        f"tokens      {tokens}{order}, {plan.method}{preset}",
        f"head        {head} by {result.backend} on {result.device}",
        f"activation  {plan.activation}, score = {plan.calibration.scale:g} x logit {plan.calibration.bias:+g}",
        "files       " + ", ".join(f"{name} ({how})" for name, how in result.files.items()),
        f"size        {human_bytes(result.nbytes)} in {result.seconds:.2f} s",
    ]
    if plan.dtype is not None:
        stored = sorted({ref.dtype for ref in model.checkpoint.tensors.values()} - {plan.dtype})
        lines.append(f"dtype       backbone cast from {', '.join(stored) or plan.dtype} to {plan.dtype}; the head stays F32")
    if model.packed is not None:
        lines.append(f"quantised   {model.packed.quantised.quantisation.summary}; the backbone is copied bit for bit")
        lines += [f"reader      {line}" for line in readers(plan)]
    if plan.pad_token is not None and plan.pad_token.added:
        lines.append(f"pad token   {plan.pad_token.text!r} ({plan.pad_token.id}) added: the tokenizer had none")
    if copy_mode != "copy" and "copy" in result.files.values():
        lines.append(f"note        the file system cannot {copy_mode} from the source; those files were copied instead")
    if result.report is not None and result.report.scores is not None:
        scores = result.report.scores
        lines.append(f"verified    raw scores of {scores.pairs} pairs by {scores.backend} to {scores.max_abs_error:.1e}")
    lines += [f"warning     {warning}" for warning in warnings_of(plan) if warning != NO_TEMPLATE]
    if result.output is not None:
        lines.append(f"serve       {_serve(plan, result.output)}")
        if model.packed is None:
            lines.append(
                '            with --quantization also --quantization-config \'{"ignore":["score"]}\', or the score row is '
                "quantised too"
            )
    if NO_TEMPLATE in plan.warnings:
        lines += [
            f"warning     {NO_TEMPLATE}",
            "            Convert again with --overwrite and --template FILE.jinja, the prompt that the model was trained on",
            "            (variables query, document, instruction), or with --preset NAME (see jaxconv presets).",
        ]
    return "\n".join(lines)


def warnings_of(plan: Plan) -> tuple[str, ...]:
    """All that the caller should know, that of the missing template last."""
    every = (*plan.warnings, *plan.machine_warnings)
    return (*(warning for warning in every if warning != NO_TEMPLATE), *(w for w in every if w == NO_TEMPLATE))


def _serve(plan: Plan, output: Path | str) -> str:
    """How the output is served; vLLM wants it on a disk."""
    if isinstance(output, Path):
        return serve_command(plan, str(output))
    directory = output.rpartition("/")[2]
    return f"{download_command(output)} && {serve_command(plan, directory)}"
