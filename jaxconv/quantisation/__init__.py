"""Stage 3b: how a checkpoint is quantised. One file per scheme in `schemes/`; the directory is the registry.

The backbone of a quantised checkpoint passes through bit for bit. What the stage answers is how each linear is stored (so
that missing and misshapen tensors are named), which entry keeps `score` plain, what the weights are as float32, and who
reads the output.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import cast

from jaxconv.errors import RefusedError, SourceError
from jaxconv.quantisation import schemes
from jaxconv.quantisation.check import Layout, check_tensors
from jaxconv.quantisation.consumers import Consumer
from jaxconv.quantisation.head import StoredHead, find_stored_head
from jaxconv.quantisation.json_values import JsonObject
from jaxconv.quantisation.protocol import Quantisation, Scheme, Source
from jaxconv.quantisation.refusals import ALIASES, ORIGINAL, UNREADABLE
from jaxconv.quantisation.storage import Part, Storage

CONFIG = "config.json"
# Where readers look, in vLLM's order.
PLACES: tuple[tuple[str, ...], ...] = (
    ("quantization_config",),
    ("text_config", "quantization_config"),
    ("compression_config",),
)
# The file that vLLM reads by itself where config.json says nothing.
ALONE = "hf_quant_config.json"


@dataclass(frozen=True, slots=True)
class Quantised:
    """A checkpoint's quantisation, and the files that an output needs beside its tensors.

    Attributes:
        method: The scheme's name, as in "compressed-tensors".
        quantisation: What the scheme knows of the checkpoint.
        serving_dtypes: What vLLM takes for --dtype.
        edits: The files that need another content so that `score` stays plain, by name: config.json, companions.
        tensor_list: The metadata key under which each weight file lists its tensors; None if readers want no list.
    """

    method: str
    quantisation: Quantisation
    serving_dtypes: tuple[str, ...]
    edits: Mapping[str, JsonObject]
    tensor_list: str | None = None


@cache
def all_schemes() -> tuple[Scheme, ...]:
    """All schemes, by name."""
    names = sorted(entry.name for entry in pkgutil.iter_modules(schemes.__path__) if not entry.name.startswith("_"))
    return tuple(cast(Scheme, importlib.import_module(f"{schemes.__name__}.{name}")) for name in names)


def companion_names() -> frozenset[str]:
    """The files beside config.json that any scheme knows, for the caller to read and to copy."""
    return frozenset(name for scheme in all_schemes() for name in scheme.COMPANIONS)


def open_quantisation(config: JsonObject, source: Source) -> Quantised | None:
    """Reads how a checkpoint is quantised.

    Args:
        config: The whole config.json.
        source: The checkpoint's tensors, metadata and companion files.

    Returns:
        What the scheme says; None where nothing speaks of quantisation.

    Raises:
        RefusedError: No output could be served, or the file says quantised and no tensor is.
        SourceError: The configuration makes no sense, or two files or entries disagree.
    """
    place, settings = _located(config, source.companions)
    if settings is None:
        return None
    scheme = _scheme(settings, source.companions)
    _check_companions(scheme, settings, source.companions)
    quantisation = scheme.open(settings, source)
    edits = _edits(scheme, config, place, settings, source.companions)
    return Quantised(scheme.NAME, quantisation, scheme.SERVING_DTYPES, edits, scheme.TENSOR_LIST)


def _located(config: JsonObject, companions: Mapping[str, JsonObject]) -> tuple[tuple[str, ...], JsonObject | None]:
    """Where a quantization_config lies, and the object itself; an empty place means the companion that is read alone."""
    values = {place: value for place in PLACES if (value := _at(config, place)) is not None}
    for place, value in values.items():
        if not isinstance(value, Mapping):
            raise SourceError(
                f"{CONFIG} has {value!r:.80} as {'.'.join(place)}; expected an object. Get the checkpoint again."
            )
    objects = {place: cast(JsonObject, value) for place, value in values.items() if value}
    if len({repr(sorted(value.items(), key=str)) for value in objects.values()}) > 1:
        raise SourceError(
            f"{CONFIG} has {' and '.join('.'.join(place) for place in objects)}, and they differ. vLLM reads the first: "
            "remove the other."
        )
    if objects:
        return next(iter(objects.items()))
    if config.get("quantization"):
        raise _unreadable("mlx")
    for name in ("quantize_config.json", "quant_config.json"):
        if name in companions:
            raise RefusedError(
                f"{name} speaks of quantisation and {CONFIG} has no quantization_config, without which no current reader "
                f'loads it. Put the content into {CONFIG} as quantization_config, with "quant_method": "gptq" or "awq".'
            )
    return (), companions.get(ALONE)


def _at(config: JsonObject, place: tuple[str, ...]) -> object:
    value: object = config
    for key in place:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _scheme(settings: JsonObject, companions: Mapping[str, JsonObject]) -> Scheme:
    """The scheme of a quantization_config."""
    if settings is companions.get(ALONE):
        return next(scheme for scheme in all_schemes() if ALONE in scheme.COMPANIONS)
    method = settings.get("quant_method")
    if method is None and {"group_size", "bits"} <= settings.keys():
        raise _unreadable("mlx")
    name = str(method).lower()
    if (known := ALIASES.get(name, name)) in UNREADABLE:
        raise _unreadable(known)
    for scheme in all_schemes():
        if name in scheme.METHODS:
            return scheme
    methods = ", ".join(sorted(method for scheme in all_schemes() for method in scheme.METHODS))
    raise RefusedError(
        f"{CONFIG} has {method!r} as quant_method of quantization_config; expected one of: {methods}. {ORIGINAL}"
    )


def _unreadable(method: str) -> RefusedError:
    refusal = UNREADABLE[method]
    return RefusedError(f"The checkpoint is quantised with {method}, which {refusal.reason}. {refusal.next_step}")


def _check_companions(scheme: Scheme, settings: JsonObject, companions: Mapping[str, JsonObject]) -> None:
    """Raises `SourceError` for a companion that says something else than the configuration that is read."""
    for file, keys in scheme.COMPANIONS.items():
        if file not in companions or companions[file] is settings:
            continue
        for there, here in keys.items():
            theirs, ours = _at(companions[file], tuple(there.split("."))), settings.get(here)
            if theirs is not None and ours is not None and str(theirs).lower() != str(ours).lower():
                raise SourceError(
                    f"{file} has {theirs!r} as {there}, {CONFIG} has {ours!r} as {here} of quantization_config. Readers look "
                    "at either one: correct the one that does not fit the tensors."
                )


def _edits(
    scheme: Scheme, config: JsonObject, place: tuple[str, ...], settings: JsonObject, companions: Mapping[str, JsonObject]
) -> dict[str, JsonObject]:
    """The files that change, with their new content."""
    edits: dict[str, JsonObject] = {}
    if place and (edited := scheme.keep_score_plain(settings)) is not None:
        edits[CONFIG] = _replaced(config, place, edited)
    for name in scheme.COMPANIONS:
        if name in companions and (content := scheme.keep_score_plain_in(name, companions[name])) is not None:
            edits[name] = content
    return edits


def _replaced(config: JsonObject, place: tuple[str, ...], value: JsonObject) -> JsonObject:
    key, *rest = place
    return {**config, key: _replaced(cast(JsonObject, config[key]), tuple(rest), value) if rest else value}


__all__ = [
    "Consumer", "Layout", "Part", "Quantisation", "Quantised", "Scheme", "Source", "Storage", "StoredHead", "all_schemes",
    "check_tensors", "companion_names", "find_stored_head", "open_quantisation",
]  # fmt: skip
