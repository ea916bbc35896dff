"""Model + options -> Plan: every decision, taken before the first byte is written.

Reads headers, config and tokenizer; no tensor data, no framework.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxconv.activation import SELECTABLE, Activation
from jaxconv.checkpoint import NUMPY_NAMES, dominant_dtype
from jaxconv.consumers import Consumer
from jaxconv.errors import RefusedError, TokenError, TokensUnknown, UsageError
from jaxconv.head import METHODS, Affine, Method, affine
from jaxconv.model import Model
from jaxconv.model_warnings import warnings_of
from jaxconv.presets import Preset, for_architecture, get
from jaxconv.presets.detect import detect, recorded
from jaxconv.presets.known_prompt import prompt_for
from jaxconv.presets.pixel_limits import pixels_to_serve
from jaxconv.presets.recorded_prompt import recorded_prompt
from jaxconv.quantisation.reading import activation_dtype, cannot_cast
from jaxconv.sources.assets import read_copied
from jaxconv.sources.card import read_licence
from jaxconv.text.chat_templates import displaced_templates
from jaxconv.text.pad_token import PadToken
from jaxconv.text.picture_notes import picture_notes
from jaxconv.text.pictures import picture_mark
from jaxconv.text.prompt import Prompt
from jaxconv.text.prompt_fit import fit_prompt
from jaxconv.text.tokenizer import Token, Vocabulary
from jaxconv.tokens import ORDER, resolve_tokens

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What a caller may choose about the result, named as on the command line. `template` is a text, not a path."""

    preset: str | None = None
    method: str | None = None
    classifier_from_tokens: Sequence[str] | None = None
    token_ids: Sequence[int] | None = None
    dtype: str | None = None
    template: str | None = None
    activation: str = "auto"
    calibrate: bool = False
    scale: float = 1.0
    bias: float = 0.0
    allow_approximate: bool = False
    use_sep_token: bool = False
    consumers: tuple[Consumer, ...] = ("vllm",)

    def __post_init__(self) -> None:
        """Raises `UsageError` for a word that is unknown, before any file is read."""
        words = {
            "method": (self.method, METHODS), "activation": (self.activation, ("auto", *SELECTABLE)),
            "dtype": (self.dtype, tuple(DTYPES)),
        }  # fmt: skip
        for name, (word, known) in words.items():
            if word is not None and word not in known:
                raise UsageError(f"--{name} {word!r} is unknown; expected one of: {', '.join(known)}.")
        if self.preset is not None:
            get(self.preset)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a conversion will do; made without reading tensor data and without a framework.

    Attributes:
        model: The source.
        tokens: The tokens whose rows are taken; false first, true second for from_2_way_softmax.
        method: How their rows become the score head.
        prompt: The prompt of the reranker.
        activation: What consumers apply to the logit.
        calibration: The affine map folded into the head.
        assets: The files of the source that the output holds byte for byte, by name.
        pad_token: The pad token of the output; None if the tokenizer has no usable piece.
        special_tokens: What the tokenizer adds before and after a prompt.
        named_template: The template for sentence-transformers; None if it is not to load the output.
        chat_templates: Files of their own for chat templates that only tokenizer_config.json holds, by name.
        licence: The licence keys in the header of the source's card.
        pixels: The least and most pixels of a picture that a server has to be told.
        preset: The name of the preset.
        preset_origin: How the preset was chosen ("--preset", "hub id …", a record of the source).
        dtype: The safetensors dtype that the backbone is cast to; None: as stored.
        use_sep_token: The value of `use_sep_token` in config.json.
        consumers: Who is to load the output, where one set of files cannot be right for all.
        warnings: What the caller should know, a sentence each; the card and the record keep it.
        machine_warnings: What this machine could not compare. Printed and not kept: the output's bytes do not depend on it.
    """

    model: Model
    tokens: tuple[Token, ...]
    method: Method
    prompt: Prompt
    activation: Activation
    calibration: Affine
    assets: Mapping[str, bytes]
    pad_token: PadToken | None
    special_tokens: tuple[str, str]
    named_template: str | None
    chat_templates: Mapping[str, bytes]
    licence: Mapping[str, str]
    pixels: tuple[int, int] | None = None
    preset: str | None = None
    preset_origin: str | None = None
    dtype: str | None = None
    use_sep_token: bool = False
    consumers: tuple[Consumer, ...] = ("vllm",)
    warnings: tuple[str, ...] = ()
    machine_warnings: tuple[str, ...] = ()

    @property
    def num_labels(self) -> int:
        """Rows of the score head: one for the two-way difference, else one per token."""
        return 1 if self.method == "from_2_way_softmax" else len(self.tokens)

    @property
    def stacked(self) -> bool:
        """Whether sentence-transformers loads backbone, pooling and row as modules, for want of a classifier class."""
        return "sentence-transformers" in self.consumers and not self.model.family.transformers_seq_cls

    @property
    def hidden_size(self) -> int:
        """Width of the final hidden state."""
        return self.model.lm_head.weight.shape[1]

    @property
    def output_dtype(self) -> str:
        """The dtype that consumers load the backbone in ("bfloat16"): as stored; of a quantised one as its config says."""
        if self.model.packed is not None:
            return activation_dtype(self.model.config, self.model.lm_head.weight.dtype)
        return NUMPY_NAMES[self.dtype or dominant_dtype(self.model.checkpoint.tensors.values())]


def make_plan(model: Model, options: PlanOptions) -> Plan:
    """Decides what a conversion will do.

    Args:
        model: The source.
        options: What the caller chose.

    Raises:
        JaxconvError: The conversion would not be exact, or an option does not fit.
    """
    assets = model.source.assets
    preset, origin = detect(model.source, options.preset, derived=model.packed is not None)
    vocabulary = Vocabulary(assets)
    if preset is None and options.classifier_from_tokens is None and options.token_ids is None:
        preset, origin = recorded(model.source, vocabulary)
    method = _method(options, preset)
    if preset is None and options.classifier_from_tokens is None and options.token_ids is None:
        raise _tokens_unknown((model.whole or model.family).architecture)
    tokens = _tokens(options, preset, vocabulary, model.lm_head.weight.shape[0], method)
    files = read_copied(assets, pictures=model.whole is None)
    picture = picture_mark(model.family.composite, model.config, vocabulary)
    prompt = prompt_for(preset, options.template, vocabulary.special_tokens, picture)
    note = None
    if not prompt.known:
        recorded_one, note = recorded_prompt(model.source, files, vocabulary.special_tokens, parts=picture is not None)
        prompt = recorded_one or prompt
    for_cross_encoder = model.family.transformers_seq_cls or "sentence-transformers" in options.consumers
    fitted = fit_prompt(prompt, vocabulary, model.lm_head.weight.shape[0])
    return Plan(
        model=model,
        tokens=tokens,
        method=method,
        prompt=fitted.prompt,
        activation=_activation(options, preset, 1 if method == "from_2_way_softmax" else len(tokens)),
        calibration=_calibration(options, preset),
        assets=files,
        pad_token=fitted.pad_token,
        special_tokens=fitted.special_tokens,
        named_template=fitted.named_template if for_cross_encoder else None,
        chat_templates=displaced_templates(files),
        licence=read_licence(assets),
        pixels=None if model.whole is not None else pixels_to_serve(preset, files),
        preset=(preset.name or None) if preset else None,
        preset_origin=origin,
        dtype=_dtype(options.dtype, model),
        use_sep_token=options.use_sep_token,
        consumers=options.consumers,
        warnings=(
            *warnings_of(model, prompt, method, allow_approximate=options.allow_approximate),
            *([note] if note else []),
            *prompt.notes,
            *fitted.warnings,
            *picture_notes(model.family, model.config, fitted.prompt.template),
        ),
        machine_warnings=fitted.machine_warnings,
    )


def announced(plan: Plan, note: str | None) -> Plan:
    """The plan with a note, all its warnings sent to the log `jaxconv`, which Python prints to stderr unless told otherwise.

    Args:
        plan: The plan.
        note: What the caller should know beside it.
    """
    if note is not None:
        plan = replace(plan, machine_warnings=(*plan.machine_warnings, note))
    for warning in (*plan.warnings, *plan.machine_warnings):
        logging.getLogger("jaxconv").warning("%s", warning)
    return plan


def _method(options: PlanOptions, preset: Preset | None) -> Method:
    if options.method is not None:
        for method in METHODS:
            if options.method == method:
                return method
    if preset is not None:
        return preset.method
    answers = options.classifier_from_tokens or options.token_ids or ()
    return "from_2_way_softmax" if len(answers) == 2 else "no_post_processing"


def _tokens_unknown(architecture: str) -> TokensUnknown:
    """Which answer a reranker was trained on cannot be seen in its weights, so it is never guessed from them."""
    names = tuple(preset.name for preset in for_architecture(architecture))
    hint = f" Presets of architecture {architecture}: {', '.join(names)}; name one if it is that or a fine-tune of it."
    return TokensUnknown(
        "no tokens were given and no preset knows this source; expected --preset, --classifier-from-tokens "
        f"'[\"no\",\"yes\"]' or --token-ids '[2152,9693]'. {ORDER} See `jaxconv presets`.{hint if names else ''}",
        names,
    )


def _tokens(
    options: PlanOptions, preset: Preset | None, vocabulary: Vocabulary, num_rows: int, method: Method
) -> tuple[Token, ...]:
    pieces, ids = options.classifier_from_tokens, options.token_ids
    from_preset = pieces is None and ids is None and preset is not None
    if from_preset and preset is not None:
        pieces, ids = (preset.tokens, None) if preset.tokens else (None, preset.token_ids)
    tokens = resolve_tokens(pieces=pieces, ids=ids, vocabulary=vocabulary, num_rows=num_rows, method=method)
    if from_preset and preset is not None and preset.token_ids:
        resolved = tuple(token.id for token in tokens)
        if resolved != preset.token_ids:
            raise TokenError(
                f"preset {preset.name} expects {list(preset.tokens)} to have the ids {list(preset.token_ids)}, but this "
                f"tokenizer gives {list(resolved)}. It is another model's; name the tokens with --classifier-from-tokens."
            )
    return tokens


def _calibration(options: PlanOptions, preset: Preset | None) -> Affine:
    requested = affine(options.scale, options.bias)
    if not options.calibrate:
        return requested
    if preset is None or preset.calibration is None:
        raise UsageError("--calibrate needs a preset with a calibration of its own; use --scale and --bias instead.")
    return preset.calibration.then(requested)


def _activation(options: PlanOptions, preset: Preset | None, num_labels: int) -> Activation:
    for activation in SELECTABLE:
        if options.activation == activation:
            return activation
    if num_labels > 1:
        return "softmax"
    return preset.activation if preset is not None and not options.calibrate else "sigmoid"


def _dtype(name: str | None, model: Model) -> str | None:
    if name is None:
        return None
    if model.family.by_proof:
        raise RefusedError(
            f"{model.family.architecture} is converted by proof, which compares source and output; --dtype would make them "
            "differ. Convert without it, or cast the source first."
        )
    if model.packed is not None:
        raise cannot_cast(model.packed)
    return DTYPES[name]
