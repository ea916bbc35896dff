"""Known rerankers, one TOML each: what their authors run, and where each fact comes from."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jaxconv.activation import Activation
from jaxconv.arguments import did_you_mean
from jaxconv.errors import UsageError
from jaxconv.head import Affine, Method
from jaxconv.json_files import JsonDict


@dataclass(frozen=True, slots=True)
class Preset:
    """A known reranker. `refusal` is set for those that cannot be converted, with the `alternative`.

    `tokens` are vocabulary pieces, false first; `token_ids` the ids they must have. A preset with ids and
    no pieces takes the rows by id. `calibration` is folded only with `--calibrate`. `max_length` is the longest prompt in
    tokens that the authors' code lets through; `caveat` says where text alone cannot give that code's token ids.
    `pixels` are the least and the most pixels that it leaves a picture.
    """

    name: str
    hub_ids: tuple[str, ...]
    evidence: str
    sources: tuple[str, ...]
    architectures: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    method: Method = "from_2_way_softmax"
    activation: Activation = "sigmoid"
    calibration: Affine | None = None
    template: str | None = None
    instruction: str | None = None
    max_length: int | None = None
    caveat: str | None = None
    pixels: tuple[int, int] | None = None
    refusal: str | None = None
    alternative: str | None = None


def _parse(name: str, table: JsonDict) -> Preset:
    calibration = table.pop("calibration", None)
    values: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return Preset(name=name, calibration=Affine(**calibration) if calibration else None, **values)


@cache
def presets() -> tuple[Preset, ...]:
    """All presets, sorted by name, refusals last."""
    bundled = []
    for entry in files(__name__).iterdir():
        if entry.name.endswith(".toml"):
            bundled.append(_parse(entry.name.removesuffix(".toml"), tomllib.loads(entry.read_text("utf-8"))))
    return tuple(sorted(bundled, key=lambda preset: (preset.refusal is not None, preset.name)))


def get(name: str) -> Preset:
    """The preset called `name`. Raises `UsageError` listing the known ones."""
    for preset in presets():
        if preset.name == name:
            return preset
    known = [preset.name for preset in presets() if not preset.refusal]
    refused = [preset.name for preset in presets() if preset.refusal]
    raise UsageError(
        f"preset {name!r} is unknown.{did_you_mean(name, known) or did_you_mean(name, refused)} Known: {', '.join(known)}. "
        f"Refused, with the reason in `jaxconv presets`: {', '.join(refused)}."
    )


def for_hub_id(hub_id: str) -> Preset | None:
    """The preset that names `hub_id` ("owner/name", compared without case), or None."""
    for preset in presets():
        if hub_id.lower() in (known.lower() for known in preset.hub_ids):
            return preset
    return None


def for_architecture(architecture: str) -> tuple[Preset, ...]:
    """The presets of an architecture: what a source without a known id may be a copy or fine-tune of."""
    return tuple(preset for preset in presets() if architecture in preset.architectures)
