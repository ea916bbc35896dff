"""Source and options -> plan. Reads headers, config and tokenizer; no tensor data, no framework."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from jaxconv.adapter import Adapter, merge_adapter, read_adapter
from jaxconv.bundle.config import read_json, stale_keys
from jaxconv.bundle.template import prompt_for, render
from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import RefusedError, TokenError, TokensUnknown, UsageError
from jaxconv.families import HEAD, Family, check_backbone, family_for, find_lm_head, text_config, tie_word_embeddings
from jaxconv.layouts import to_hf
from jaxconv.plan import METHODS, Activation, Affine, LmHead, LogitTransform, Method, Plan, Prompt, Source, Token
from jaxconv.presets import Preset, for_architecture
from jaxconv.presets.detect import detect, recorded
from jaxconv.readers import open_checkpoint
from jaxconv.tokens import ORDER, Vocabulary, resolve_tokens

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller may choose about the result; the names are those of the command line."""

    preset: str | None = None
    method: str | None = None
    classifier_from_tokens: Sequence[str] | None = None
    token_ids: Sequence[int] | None = None
    layout: str | None = None
    step: int | None = None
    adapter: str | Path | None = None
    dtype: str | None = None
    template: str | None = None  # the template's text
    activation: str = "auto"
    calibrate: bool = False
    scale: float = 1.0
    bias: float = 0.0
    allow_approximate: bool = False
    use_sep_token: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """What a source is, whatever is asked of it: its backbone's tensors, its head, its family."""

    source: Source
    checkpoint: Checkpoint
    format: str
    layout: str
    config: Mapping[str, Any]
    family: Family
    lm_head: LmHead
    transform: LogitTransform
    adapter: Adapter | None = None


def read_model(source: Source, options: Options, found: Checkpoint | None = None) -> Model:
    """The model of a source, or of a checkpoint that is open already.

    Raises `SourceError` and `RefusedError` for what is damaged or not convertible.
    """
    config = read_json(source.assets / "config.json", "the model's configuration")
    family = family_for(config)
    found = found or open_checkpoint(source.weights, options.step)
    layout, checkpoint = to_hf(found, text_config(config), options.layout)
    backbone = set(check_backbone(checkpoint, family, text_config(config)))
    adapter = None if options.adapter is None else read_adapter(Path(options.adapter).expanduser())
    if adapter is not None:
        checkpoint = merge_adapter(checkpoint, adapter, tied=tie_word_embeddings(family, config)[0])
    lm_head = find_lm_head(checkpoint, family, config)
    tensors = {name: ref for name, ref in checkpoint.tensors.items() if name in backbone}
    return Model(
        source=source,
        checkpoint=dataclasses.replace(checkpoint, tensors=tensors),
        format=found.format,
        layout=layout,
        config=config,
        family=family,
        lm_head=lm_head,
        transform=dataclasses.replace(family.transform(text_config(config)), bias=lm_head.bias is not None),
        adapter=adapter,
    )


def make_plan(model: Model, options: Options) -> Plan:
    """What a conversion of the model will do. Raises a `JaxconvError` for anything that would not be exact."""
    preset, origin = detect(model.source, options.preset)
    vocabulary = Vocabulary(model.source.assets)
    if preset is None and options.classifier_from_tokens is None and options.token_ids is None:
        preset, origin = recorded(model.source, vocabulary)
    method = _method(options, preset)
    if preset is None and options.classifier_from_tokens is None and options.token_ids is None:
        raise _tokens_unknown(model.family.architecture)
    tokens = _tokens(options, preset, vocabulary, model.lm_head.weight.shape[0], method)
    prompt = prompt_for(preset, options.template)
    render(prompt.template, "query", "document", prompt.instruction)
    return Plan(
        source=model.source,
        checkpoint=model.checkpoint,
        format=model.format,
        layout=model.layout,
        config=model.config,
        family=model.family,
        lm_head=model.lm_head,
        transform=model.transform,
        tokens=tokens,
        method=method,
        prompt=prompt,
        activation=_activation(options, preset),
        calibration=_calibration(options, preset),
        preset=(preset.name or None) if preset else None,
        preset_origin=origin,
        dtype=_dtype(options.dtype),
        use_sep_token=options.use_sep_token,
        warnings=_warnings(model, prompt, method, options),
        adapter=model.adapter,
    )


def _warnings(model: Model, prompt: Prompt, method: Method, options: Options) -> tuple[str, ...]:
    warnings = [*model.checkpoint.notes]
    if not prompt.known:
        warnings.append(
            "no prompt template is known: scores are near random unless the model was trained on the plain pair; "
            "pass --template or --preset."
        )
    if model.checkpoint.headers_only and model.lm_head.tied and model.lm_head.weight.name == HEAD:
        warnings.append(f"{HEAD} is stored beside the embedding that it is tied to; convert compares them, headers cannot.")
    if prompt.caveat:
        warnings.append(prompt.caveat)
    if model.transform.bias:
        warnings.append("the LM head has a bias: vLLM adds score.bias, transformers' classes leave it out.")
    if model.transform.softcap is not None:
        warnings.append(_softcap(model.transform.softcap, method, options.allow_approximate))
    if stale_keys(model.config):
        warnings.append(f"on-the-fly keys of config.json are left out: {', '.join(stale_keys(model.config))}.")
    trained_on = model.adapter.base if model.adapter is not None else None
    if trained_on and model.source.hub_id and trained_on.lower() != model.source.hub_id.lower():
        warnings.append(f"the adapter was trained on {trained_on}, the source is {model.source.hub_id}.")
    if "auto_map" in model.config:
        warnings.append("auto_map of config.json is left out: it would load the source's remote code.")
    return tuple(warnings)


def _method(options: Options, preset: Preset | None) -> Method:
    if options.method is not None:
        for method in METHODS:
            if options.method == method:
                return method
        raise UsageError(f"--method {options.method!r} is unknown; expected one of: {', '.join(METHODS)}.")
    if preset is not None:
        return preset.method
    given = options.classifier_from_tokens or options.token_ids or ()
    return "from_2_way_softmax" if len(given) == 2 else "no_post_processing"


def _tokens_unknown(architecture: str) -> TokensUnknown:
    """Which answer a reranker was trained on cannot be seen in its weights, so it is never guessed from them."""
    known = tuple(preset.name for preset in for_architecture(architecture))
    fitting = f" Of architecture {architecture} are the presets {', '.join(known)}; name one if it is that or a fine-tune."
    return TokensUnknown(
        "no tokens were given and no preset knows this source; expected --preset, --classifier-from-tokens "
        f"'[\"no\",\"yes\"]' or --token-ids '[2152,9693]'. {ORDER} See `jaxconv presets`.{fitting if known else ''}",
        known,
    )


def _tokens(
    options: Options, preset: Preset | None, vocabulary: Vocabulary, num_rows: int, method: Method
) -> tuple[Token, ...]:
    pieces, ids = options.classifier_from_tokens, options.token_ids
    from_preset = pieces is None and ids is None and preset is not None
    if from_preset and preset is not None:
        pieces, ids = (preset.tokens, None) if preset.tokens else (None, preset.token_ids)
    tokens = resolve_tokens(pieces=pieces, ids=ids, vocabulary=vocabulary, num_rows=num_rows, method=method)
    if from_preset and preset is not None and preset.token_ids:
        found = tuple(token.id for token in tokens)
        if found != preset.token_ids:
            raise TokenError(
                f"preset {preset.name} expects {list(preset.tokens)} to have the ids {list(preset.token_ids)}, but this "
                f"tokenizer gives {list(found)}. It is another model's; name the tokens with --classifier-from-tokens."
            )
    return tokens


def _calibration(options: Options, preset: Preset | None) -> Affine:
    for name, value in (("--scale", options.scale), ("--bias", options.bias)):
        if not math.isfinite(value) or (name == "--scale" and value == 0):
            raise UsageError(f"{name} {value!r} is not usable; expected a finite number (and no scale of zero).")
    own = Affine(options.scale, options.bias)
    if not options.calibrate:
        return own
    if preset is None or preset.calibration is None:
        raise UsageError("--calibrate wants a preset with a calibration of its own; use --scale and --bias instead.")
    return preset.calibration.then(own)


def _activation(options: Options, preset: Preset | None) -> Activation:
    for activation in get_args(Activation):
        if options.activation == activation:
            chosen: Activation = activation
            return chosen
    if options.activation != "auto":
        raise UsageError(f"--activation {options.activation!r} is unknown; expected auto, sigmoid or identity.")
    return preset.activation if preset is not None and not options.calibrate else "sigmoid"


def _dtype(name: str | None) -> str | None:
    if name is not None and name not in DTYPES:
        raise UsageError(f"--dtype {name!r} is unknown; expected one of: {', '.join(DTYPES)}.")
    return DTYPES[name] if name is not None else None


def _softcap(cap: float, method: Method, allowed: bool) -> str:
    kept = "the order of scores is kept, their values are not" if method == "no_post_processing" else "order may change"
    if not allowed:
        raise RefusedError(
            f"the model caps its logits ({cap:g} x tanh(x / {cap:g})), which a linear head cannot: {kept}. "
            "Pass --allow-approximate to convert all the same; it will be recorded."
        )
    return f"approximate: the source caps its logits at {cap:g}, the classifier does not; {kept}."


def read_template(path: str | Path | None) -> str | None:
    """The text of a `--template` file. Raises `UsageError` when it cannot be read."""
    if path is None:
        return None
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--template {path} cannot be read ({error}); expected a Jinja file in UTF-8.") from None


def describe(model: Model | Plan) -> dict[str, Any]:
    """The model or plan as the JSON of `jaxconv inspect`; a plan adds what was decided."""
    head, transform = model.lm_head, model.transform
    return {
        "source": model.source.name,
        "format": model.format,
        "layout": model.layout,
        "model_type": model.family.model_type,
        "architecture": model.family.architecture,
        "target_architecture": model.family.target_architecture,
        "num_parameters": sum(math.prod(ref.shape) for ref in model.checkpoint.tensors.values()),
        "bytes": model.checkpoint.nbytes,
        "dtype": head.weight.dtype,
        "lm_head": {
            "tensor": head.weight.name,
            "tied": head.tied,
            "shape": list(head.weight.shape),
            "bias": head.bias is not None,
        },
        "logit_transform": {"scale": transform.scale, "bias": transform.bias, "softcap": transform.softcap},
        **(_decided(model) if isinstance(model, Plan) else UNDECIDED),
    }


# The keys of `inspect` that a refusal leaves open.
UNDECIDED: Mapping[str, Any] = {
    "preset": None, "method": None, "tokens": [], "convertible": False, "refusals": [], "warnings": [],
}  # fmt: skip


def _decided(plan: Plan) -> dict[str, Any]:
    return {
        "preset": plan.preset,
        "method": plan.method,
        "tokens": [{"text": token.text, "id": token.id} for token in plan.tokens],
        "convertible": True,
        "refusals": [],
        "warnings": list(plan.warnings),
        "prompt": render(plan.prompt.template, "{query}", "{document}", plan.prompt.instruction),
    }
