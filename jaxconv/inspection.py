"""What a source is and what `convert` would do with it, from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

from jaxconv.arguments import checked
from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import RefusedError, TokenError
from jaxconv.families import Rows
from jaxconv.model import Model, ReadOptions, read_config, read_model
from jaxconv.plan import Plan, PlanOptions, make_plan
from jaxconv.quantisation.jax_trees import DTYPE
from jaxconv.sources import Source, resolve
from jaxconv.sources.hub import HubAccess, is_offline, read_headers
from jaxconv.text.prompt import EXAMPLE_PAIR, read_template, render
from jaxconv.text.tokenizer import Vocabulary


class TokenDescription(TypedDict):
    """A token whose row is taken."""

    text: str
    id: int


class HeadDescription(TypedDict):
    """The tensor whose rows score tokens; `shape` is [vocab_size, hidden_size]."""

    tensor: str
    tied: bool
    shape: list[int]
    bias: bool


class TransformDescription(TypedDict):
    """What follows `hidden @ lm_head.T` in the causal LM."""

    scale: float
    bias: bool
    softcap: float | None


class Description(TypedDict):
    """What `inspect` returns. A key that a refusal leaves open is None or empty; without one `prompt` is there, and of a
    quantised source `quantisation`."""

    source: str
    format: str | None
    layout: str | None
    model_type: str | None
    architecture: str | None
    target_architecture: str | None
    num_parameters: int | None
    bytes: int | None
    dtype: str | None
    lm_head: HeadDescription | None
    logit_transform: TransformDescription | None
    preset: str | None
    method: str | None
    tokens: list[TokenDescription]
    convertible: bool
    refusals: list[str]
    warnings: list[str]
    quantisation: NotRequired[str]
    prompt: NotRequired[str]


@checked
def inspect(
    source: str | Path,
    *,
    preset: str | None = None,
    method: str | None = None,
    classifier_from_tokens: Sequence[str] | None = None,
    token_ids: Sequence[int] | None = None,
    base: str | Path | None = None,
    layout: str | None = None,
    step: int | None = None,
    adapter: str | Path | None = None,
    dequantize: bool = False,
    text_only: bool = False,
    template: str | Path | None = None,
    activation: str = "auto",
    calibrate: bool = False,
    scale: float = 1.0,
    bias: float = 0.0,
    allow_approximate: bool = False,
    dtype: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
) -> Description:
    """Says what a source is and what `convert` with the same options would do.

    Reads headers, config and tokenizer only; of a hub id the weights stay on the hub. A refusal is an entry of the
    result, not an error.

    Args:
        source: As for `convert`; so are all other parameters.
        preset: A known reranker (see `jaxconv presets`).
        method: "from_2_way_softmax" or "no_post_processing".
        classifier_from_tokens: The answers as vocabulary pieces, false first.
        token_ids: The answers as token ids, false first.
        base: A model whose config and tokenizer are used.
        layout: The layout of the tensor names.
        step: The step of a checkpoint manager's root.
        adapter: A PEFT LoRA adapter.
        dequantize: Make bfloat16 numbers of the arrays that AQT or Qwix quantised.
        text_only: Of a model of pictures and text take the language model alone.
        template: The Jinja file of the prompt.
        activation: "auto", "sigmoid" or "identity".
        calibrate: Fold the preset's calibration into the head.
        scale: score = scale * logit + bias.
        bias: score = scale * logit + bias.
        allow_approximate: Allow conversions that keep the ranking but not the exact scores.
        dtype: The dtype the backbone is cast to.
        revision: Branch, tag or commit on the hub.
        token: Hub token.
        offline: Use only the hub's cache.

    Returns:
        A JSON-ready dict with the keys `source`, `format`, `layout`, `model_type`, `architecture`,
        `target_architecture`, `num_parameters`, `bytes`, `dtype`, `lm_head` (`tensor`, `tied`, `shape`, `bias`),
        `logit_transform` (`scale`, `bias`, `softcap`), `preset`, `method`, `tokens` (`text`, `id`), `convertible`,
        `refusals`, `warnings`, of a quantised source `quantisation` (the scheme in words) and, if convertible, `prompt`: the
        prompt rendered with an example pair.

    Raises:
        SourceError: The source does not exist or is damaged.
        UsageError: An argument is wrong.

    Example:
        >>> jaxconv.inspect("./my-reranker", classifier_from_tokens=["no", "yes"])["convertible"]
        True
    """
    options = PlanOptions(
        preset=preset, method=method, classifier_from_tokens=classifier_from_tokens, token_ids=token_ids, dtype=dtype,
        template=read_template(template), activation=activation, calibrate=calibrate, scale=scale, bias=bias,
        allow_approximate=allow_approximate,
    )  # fmt: skip
    located, checkpoint = _headers(source, base, HubAccess(revision, token, offline))
    description = _unread(located)
    try:
        compare: Rows = "sample" if checkpoint is None else "none"
        read = ReadOptions(layout, step, adapter, dequantize, text_only)
        model = read_model(located, read, checkpoint, compare_heads=compare)
        description = describe(model)
        return describe_plan(make_plan(model, options))
    except (RefusedError, TokenError) as error:
        description["refusals"] = [str(error)]
        return description


def _headers(source: str | Path, base: str | Path | None, access: HubAccess) -> tuple[Source, Checkpoint | None]:
    """A source and, if it is on the hub, the headers of its weights; weights without headers are fetched whole."""
    located = resolve(source, base=base, access=access, weights=False)
    if located.hub_id is None:
        return located, None
    pinned = HubAccess(located.revision, access.token, access.offline)
    checkpoint = None if is_offline(access) else read_headers(located.hub_id, pinned)
    if checkpoint is None:
        return resolve(source, base=base, access=access), None
    return located, checkpoint


def _unread(source: Source) -> Description:
    """What the config alone says of a source."""
    config = read_config(source)
    architectures = config.get("architectures")
    return {
        "source": source.name,
        "format": None,
        "layout": None,
        "model_type": config.get("model_type"),
        "architecture": architectures[0] if isinstance(architectures, list) and architectures else None,
        "target_architecture": None,
        "num_parameters": None,
        "bytes": None,
        "dtype": None,
        "lm_head": None,
        "logit_transform": None,
        "preset": None,
        "method": None,
        "tokens": [],
        "convertible": False,
        "refusals": [],
        "warnings": [],
    }


def describe(model: Model) -> Description:
    """A `model` as `inspect` describes it, nothing decided."""
    head, transform = model.lm_head, model.transform
    description: Description = {
        **_unread(model.source),
        "format": model.format,
        "layout": model.layout,
        "model_type": model.family.model_type,
        "architecture": model.family.architecture,
        "target_architecture": model.family.target_architecture,
        "num_parameters": model.num_parameters,
        "bytes": model.nbytes,
        "dtype": model.dtype,
        "lm_head": {
            "tensor": head.weight.name,
            "tied": head.tied,
            "shape": list(head.weight.shape),
            "bias": head.bias is not None,
        },
        "logit_transform": {"scale": transform.scale, "bias": transform.bias, "softcap": transform.softcap},
    }
    if model.packed is not None:
        description["quantisation"] = model.packed.quantised.quantisation.summary
    if model.dequantised is not None:
        description["quantisation"] = f"{model.dequantised.summary}, dequantised to {DTYPE}"
    return description


def describe_plan(plan: Plan) -> Description:
    """A `plan` as `inspect` describes it."""
    return {
        **describe(plan.model),
        "preset": plan.preset,
        "method": plan.method,
        "tokens": [{"text": token.text, "id": token.id} for token in plan.tokens],
        "convertible": True,
        "warnings": [*plan.warnings, *plan.machine_warnings],
        "prompt": _example_prompt(plan),
    }


def _example_prompt(plan: Plan) -> str:
    """The prompt of an example pair under `plan`, as consumers tokenise it."""
    tokens = Vocabulary(plan.model.source.assets).special_tokens
    return render(plan.prompt.template, *EXAMPLE_PAIR, plan.prompt.instruction, tokens)
