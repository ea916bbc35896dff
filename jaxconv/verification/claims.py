"""What an output should be: its own record, held against the caller's options and the source's preset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxconv.errors import RefusedError, SourceError, UsageError
from jaxconv.json_files import JsonObject, is_finite_number
from jaxconv.model import Model
from jaxconv.presets import Preset
from jaxconv.presets.detect import detect
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.verification.claimed_prompt import ClaimedPrompt, claimed_prompt
from jaxconv.verification.output import Output

METHODS = ("from_2_way_softmax", "no_post_processing")
ACTIVATIONS = ("sigmoid", "identity", "softmax")
DTYPES = (None, "F32", "BF16", "F16")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a caller says that the output is; None where nothing is said.

    Attributes:
        preset: The name of a preset.
        method: "from_2_way_softmax" or "no_post_processing".
        classifier_from_tokens: The answers as vocabulary pieces, false first.
        token_ids: The answers as token ids, false first.
        template: The text of the prompt's template.
    """

    preset: str | None = None
    method: str | None = None
    classifier_from_tokens: Sequence[str] | None = None
    token_ids: Sequence[int] | None = None
    template: str | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What the output must be.

    Attributes:
        token_ids: The answers, false first and true second.
        method: How their rows become the score head.
        scale: score = scale * logit + bias.
        bias: score = scale * logit + bias.
        dtype: The safetensors dtype that the backbone was cast to; None: as stored.
        activation: What consumers apply to the logit.
        rows_sha256: The recorded sha256 of the head rows.
        prompt: The prompt that the output's templates must give; None if nobody says which.
        findings: Where record and options disagree, a sentence each.
    """

    token_ids: tuple[int, ...]
    method: str
    scale: float
    bias: float
    dtype: str | None
    activation: str | None
    rows_sha256: str | None
    prompt: ClaimedPrompt | None = None
    findings: list[str] = field(default_factory=list)

    @property
    def num_labels(self) -> int:
        """Rows of the score head."""
        return 1 if self.method == "from_2_way_softmax" else len(self.token_ids)


def expect(model: Model, output: Output, claims: Claims) -> Expected:
    """What the output must be. Where record and options (else the preset) disagree there is a finding, and the options win.

    Args:
        model: The source.
        output: The output, whose jaxconv.json is the record.
        claims: The options of the caller.

    Raises:
        UsageError: Neither record nor options nor preset say which tokens.
        SourceError: The record is damaged.
    """
    record = output.record
    findings: list[str] = []
    vocabulary = Vocabulary(model.source.assets)
    preset = _preset(model, claims, findings)
    claimed, origin = _claimed_ids(claims, preset, vocabulary)
    recorded = _recorded_ids(record, vocabulary, findings) if record is not None else None
    if record is None:
        findings.append("there is no jaxconv.json, so no cast and no calibration are expected.")
    if recorded is None and claimed is None:
        raise UsageError(
            f"{output.folder} does not record its tokens; expected --classifier-from-tokens, --token-ids or --preset."
        )
    if recorded is not None and claimed is not None and recorded != claimed:
        findings.append(
            f"jaxconv.json has the tokens {list(recorded)} (false first), {origin} has {list(claimed)}."
            + (" They are swapped." if sorted(recorded) == sorted(claimed) else "")
        )
    ids = claimed if claimed is not None else recorded or ()
    for index in ids:
        if not 0 <= index < model.lm_head.weight.shape[0]:
            raise UsageError(f"token id {index} is out of range: the LM head has {model.lm_head.weight.shape[0]} rows.")
    record = record or {}
    _check_adapter(record, model, findings)
    _check_dequantised(record, model, findings)
    prompt = claimed_prompt(claims.template, claims.preset, record, model.source, findings)
    return _expected(record, ids, _method(record, claims, preset, len(ids), findings), prompt, findings)


def _expected(
    record: JsonObject, ids: Sequence[int], method: str, prompt: ClaimedPrompt | None, findings: list[str]
) -> Expected:
    """The rest of the record, checked."""
    calibration = _object(record, "calibration")
    dtype, activation = record.get("dtype"), record.get("activation")
    if dtype not in DTYPES:
        raise SourceError(f"jaxconv.json records the dtype {dtype!r}; expected one of {', '.join(map(str, DTYPES))}.")
    if activation not in (None, *ACTIVATIONS):
        raise SourceError(f"jaxconv.json records the activation {activation!r}; expected one of {', '.join(ACTIVATIONS)}.")
    return Expected(
        token_ids=tuple(ids),
        method=method,
        scale=_number(calibration, "scale", 1.0),
        bias=_number(calibration, "bias", 0.0),
        dtype=dtype,
        activation=activation,
        rows_sha256=_object(record, "head").get("sha256"),
        prompt=prompt,
        findings=findings,
    )


def _preset(model: Model, claims: Claims, findings: list[str]) -> Preset | None:
    try:
        return detect(model.source, claims.preset, derived=model.packed is not None)[0]
    except RefusedError as error:
        findings.append(str(error))
        return None


def _claimed_ids(claims: Claims, preset: Preset | None, vocabulary: Vocabulary) -> tuple[tuple[int, ...] | None, str]:
    """Ids of the options, else of the preset, and which of them it was."""
    if claims.token_ids is not None and claims.classifier_from_tokens is not None:
        raise UsageError("both --classifier-from-tokens and --token-ids were given; expected one of them.")
    if claims.token_ids is not None:
        return tuple(claims.token_ids), "--token-ids"
    if claims.classifier_from_tokens is not None:
        return tuple(_id(text, vocabulary) for text in claims.classifier_from_tokens), "--classifier-from-tokens"
    if preset is None:
        return None, ""
    ids = preset.token_ids or tuple(_id(text, vocabulary) for text in preset.tokens)
    return ids or None, f"preset {preset.name}"


def _id(text: str, vocabulary: Vocabulary) -> int:
    index = vocabulary.id(text)
    if index is not None:
        return index
    encoded = vocabulary.encode(text)
    if len(encoded) != 1:
        raise UsageError(f"token {text!r} is not a single vocabulary piece. {vocabulary.near(text)}")
    return encoded[0].id


def _recorded_ids(record: JsonObject, vocabulary: Vocabulary, findings: list[str]) -> tuple[int, ...] | None:
    """Ids of the record. A text that the source's tokenizer gives another id is a finding."""
    tokens = record.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, dict) and type(t.get("id")) is int for t in tokens):
        raise SourceError(f"jaxconv.json records the tokens {tokens!r}; expected texts and ids. Convert the source again.")
    for token in tokens:
        piece = vocabulary.piece(token["id"]) if token["id"] >= 0 else None
        if piece != token.get("text"):
            findings.append(
                f"jaxconv.json names token {token['id']} {token.get('text')!r}; the source's tokenizer {piece!r}."
            )
    return tuple(token["id"] for token in tokens) or None


def _check_adapter(record: JsonObject, model: Model, findings: list[str]) -> None:
    """Whether the record names the adapter that the caller names."""
    recorded = _object(record, "adapter").get("sha256")
    claimed = model.adapter.sha256 if model.adapter is not None else None
    if recorded != claimed:
        name = f"the adapter {_object(record, 'adapter').get('name')}" if recorded else "no adapter"
        other = "none was given; pass --adapter" if claimed is None else "another one was given"
        findings.append(f"jaxconv.json records {name}, and {other}.")


def _check_dequantised(record: JsonObject, model: Model, findings: list[str]) -> None:
    """Whether the record says that the source's codes were made numbers if they were, and only then."""
    recorded, tree = _object(record, "dequantised"), model.dequantised
    expected = {} if tree is None else {"library": tree.library, "arrays": len(tree.arrays), "dtype": "BF16"}
    actual = {key: recorded.get(key) for key in ("library", "arrays", "dtype")} if recorded else {}
    if actual != expected:
        findings.append(
            f"jaxconv.json records {actual or 'nothing'} as dequantised; the source gives {expected or 'nothing'}."
        )


def _method(record: JsonObject, claims: Claims, preset: Preset | None, count: int, findings: list[str]) -> str:
    recorded, plain = record.get("method"), "from_2_way_softmax" if count == 2 else "no_post_processing"
    if claims.method is not None and recorded not in (None, claims.method):
        findings.append(f"jaxconv.json has the method {recorded}, --method has {claims.method}.")
    method = claims.method or recorded or (preset.method if preset else plain)
    if method in METHODS and (count == 2 or method != "from_2_way_softmax"):
        return str(method)
    raise UsageError(f"method {method!r} does not fit {count} tokens; expected one of: {', '.join(METHODS)}.")


def _object(record: JsonObject, key: str) -> JsonObject:
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _number(table: JsonObject, key: str, default: float) -> float:
    value = table.get(key, default)
    if not is_finite_number(value):
        raise SourceError(f"jaxconv.json records the {key} {value!r:.80}; expected a finite number.")
    return float(value)
