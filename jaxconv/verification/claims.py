"""What an output should be: its own record, held against the caller's flags and the source's preset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxconv.errors import RefusedError, SourceError, UsageError
from jaxconv.head import METHODS, Affine, Method
from jaxconv.model import Model
from jaxconv.presets import Preset
from jaxconv.presets.detect import detect
from jaxconv.tokenizer import Vocabulary
from jaxconv.verification.output import Output

DTYPES = (None, "F32", "BF16", "F16")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a caller says that the output is; None where nothing is said."""

    preset: str | None = None
    method: str | None = None
    classifier_from_tokens: Sequence[str] | None = None
    token_ids: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What the output must be. `token_ids` are false first, true second; `dtype` is the recorded cast."""

    token_ids: tuple[int, ...]
    method: Method
    calibration: Affine
    dtype: str | None
    activation: str | None
    rows_sha256: str | None
    findings: list[str] = field(default_factory=list)

    @property
    def num_labels(self) -> int:
        """Rows of the score head."""
        return 1 if self.method == "from_2_way_softmax" else len(self.token_ids)


def expect(model: Model, output: Output, claims: Claims) -> Expected:
    """What the output must be. Where record and flags (else the preset) disagree there is a finding, and the flags win.

    Raises `UsageError` when neither says which tokens, `SourceError` for a record that is damaged.
    """
    record = output.record
    findings: list[str] = []
    vocabulary = Vocabulary(model.source.assets)
    preset = _preset(model, claims, findings)
    said, origin = _said(claims, preset, vocabulary)
    recorded = _recorded(record, vocabulary, findings) if record is not None else None
    if record is None:
        findings.append("there is no jaxconv.json, so no cast and no calibration are expected.")
    if recorded is None and said is None:
        raise UsageError(
            f"{output.folder} does not record its tokens; expected --classifier-from-tokens, --token-ids or --preset."
        )
    if recorded is not None and said is not None and recorded != said:
        findings.append(
            f"jaxconv.json has the tokens {list(recorded)} (false first), {origin} has {list(said)}."
            + (" They are swapped." if sorted(recorded) == sorted(said) else "")
        )
    ids = said if said is not None else recorded or ()
    for index in ids:
        if not 0 <= index < model.lm_head.weight.shape[0]:
            raise UsageError(f"token id {index} is out of range: the LM head has {model.lm_head.weight.shape[0]} rows.")
    record = record or {}
    merged = _object(record, "adapter").get("sha256")
    given = model.adapter.sha256 if model.adapter is not None else None
    if merged != given:
        recorded_adapter = f"the adapter {_object(record, 'adapter').get('name')}" if merged else "no adapter"
        other = "none was given; pass --adapter" if given is None else "another one was given"
        findings.append(f"jaxconv.json records {recorded_adapter}, and {other}.")
    calibration = _object(record, "calibration")
    dtype = record.get("dtype")
    if dtype not in DTYPES:
        raise SourceError(f"jaxconv.json records the dtype {dtype!r}; expected one of {', '.join(map(str, DTYPES))}.")
    return Expected(
        token_ids=tuple(ids),
        method=_method(record, claims, preset, len(ids), findings),
        calibration=Affine(_number(calibration, "scale", 1.0), _number(calibration, "bias", 0.0)),
        dtype=dtype,
        activation=record.get("activation"),
        rows_sha256=_object(record, "head").get("sha256"),
        findings=findings,
    )


def _preset(model: Model, claims: Claims, findings: list[str]) -> Preset | None:
    try:
        return detect(model.source, claims.preset)[0]
    except RefusedError as error:
        findings.append(str(error))
        return None


def _said(claims: Claims, preset: Preset | None, vocabulary: Vocabulary) -> tuple[tuple[int, ...] | None, str]:
    """Ids of the flags, else of the preset, and which of them it was."""
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
    found = vocabulary.id(text)
    if found is not None:
        return found
    encoded = vocabulary.encode(text)
    if len(encoded) != 1:
        raise UsageError(f"token {text!r} is no single vocabulary piece. {vocabulary.near(text)}")
    return encoded[0].id


def _recorded(record: Mapping[str, Any], vocabulary: Vocabulary, findings: list[str]) -> tuple[int, ...] | None:
    """Ids of the record. A text that the source's tokenizer gives another id is a finding."""
    tokens = record.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, dict) and type(t.get("id")) is int for t in tokens):
        raise SourceError(f"jaxconv.json records the tokens {tokens!r}; expected texts and ids. Convert the source again.")
    for token in tokens:
        if vocabulary.piece(token["id"]) != token.get("text"):
            piece = vocabulary.piece(token["id"])
            findings.append(
                f"jaxconv.json names token {token['id']} {token.get('text')!r}; the source's tokenizer {piece!r}."
            )
    return tuple(token["id"] for token in tokens) or None


def _method(record: Mapping[str, Any], claims: Claims, preset: Preset | None, count: int, findings: list[str]) -> Method:
    recorded, plain = record.get("method"), "from_2_way_softmax" if count == 2 else "no_post_processing"
    if claims.method is not None and recorded not in (None, claims.method):
        findings.append(f"jaxconv.json has the method {recorded}, --method has {claims.method}.")
    chosen = claims.method or recorded or (preset.method if preset else plain)
    for method in METHODS:
        if method == chosen and (count == 2 or method != "from_2_way_softmax"):
            return method
    raise UsageError(f"method {chosen!r} does not fit {count} tokens; expected one of: {', '.join(METHODS)}.")


def _object(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = record.get(key)
    return found if isinstance(found, dict) else {}


def _number(table: Mapping[str, Any], key: str, default: float) -> float:
    value = table.get(key, default)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise SourceError(f"jaxconv.json records the {key} {value!r}; expected a finite number.")
    return float(value)
