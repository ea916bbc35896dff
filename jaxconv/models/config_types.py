"""The types of the values in a config.json that the decoder computes with. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxconv.errors import SourceError
from jaxconv.families.values import MAX_SIZE
from jaxconv.json_files import JsonObject, is_finite_number

Check = tuple[Callable[[object], bool], str]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value <= MAX_SIZE


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and is_finite_number(value) and value >= 0


def _is_fraction(value: object) -> bool:
    return is_finite_number(value) and 0 < value <= 1


def _is_option(value: object) -> bool:
    """Whether a value can be an option of a rope scaling."""
    if isinstance(value, list):
        return all(is_finite_number(entry) for entry in value)
    return isinstance(value, str | bool) or is_finite_number(value)


COUNT: Check = (_is_count, f"a whole number from 1 to {MAX_SIZE}")
NUMBER: Check = (_is_number, "a number of zero or more")
POSITIVE: Check = (lambda value: _is_number(value) and value != 0, "a finite number above zero")
FRACTION: Check = (_is_fraction, "a number above zero, one at most")
NAME: Check = (lambda value: isinstance(value, str), "a name")
NAMES: Check = (
    lambda value: isinstance(value, list) and all(isinstance(entry, str) for entry in value),
    "a list of names",
)
COUNTS: Check = (lambda value: isinstance(value, list) and all(type(entry) is int for entry in value), "a list of numbers")
OBJECT: Check = (lambda value: isinstance(value, dict), "an object")
OPTION: Check = (_is_option, "a number, a list of numbers, a word, true or false")

VALUES: Mapping[str, Check] = {
    "head_dim": COUNT,
    "max_window_layers": NUMBER,
    "sliding_window_pattern": COUNT,
    "sliding_window": NUMBER,
    "decoder_sparse_step": COUNT,
    "original_max_position_embeddings": COUNT,
    "rope_theta": POSITIVE,
    "rope_local_base_freq": POSITIVE,
    "query_pre_attn_scalar": POSITIVE,
    "partial_rotary_factor": FRACTION,
    "hidden_act": NAME,
    "hidden_activation": NAME,
    "layer_types": NAMES,
    "mlp_only_layers": COUNTS,
    "rope_parameters": OBJECT,
    "rope_scaling": OBJECT,
}
LAYER_KINDS = ("full_attention", "sliding_attention")
# Options of a rope scaling that something is divided by, or the logarithm is taken of.
ROPE: Mapping[str, Check] = {
    "factor": POSITIVE,
    "rope_theta": POSITIVE,
    "partial_rotary_factor": FRACTION,
    "original_max_position_embeddings": POSITIVE,
    "low_freq_factor": POSITIVE,
    "high_freq_factor": POSITIVE,
    "rope_type": NAME,
    "type": NAME,
    **dict.fromkeys(LAYER_KINDS, OBJECT),
}


def check_types(config: JsonObject) -> None:
    """Raises `SourceError` for a value of a config.json that the decoder cannot compute with. An absent one is none."""
    _check(config, VALUES, "")
    for key in ("rope_parameters", "rope_scaling"):
        rope = config.get(key) or {}
        nested = [(f"{key}.{kind}", rope[kind]) for kind in LAYER_KINDS if isinstance(rope.get(kind), dict)]
        for where, options in ((key, rope), *nested):
            _check(options, {**dict.fromkeys(options, OPTION), **ROPE}, f"{where}.")


def _check(values: JsonObject, checks: Mapping[str, Check], where: str) -> None:
    for key, (is_right, expected) in checks.items():
        value = values.get(key)
        if value is not None and not is_right(value):
            raise SourceError(
                f"config.json has {value!r:.80} as {where}{key}; expected {expected}. Download it again, or correct it."
            )
