"""modelopt: NVIDIA's Model Optimizer, one algorithm for all linears or one for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jaxconv.errors import RefusedError, SourceError
from jaxconv.families.parameter import Parameter
from jaxconv.quantisation.consumers import Consumer, consumers
from jaxconv.quantisation.json_values import JsonObject, section, strings, with_entry
from jaxconv.quantisation.layouts import F32, FP8, SCALAR, CodesTimesScales, ceil_div, grid, matrix_of, nvfp4, scalar
from jaxconv.quantisation.matching import containing_or_wildcard
from jaxconv.quantisation.protocol import Source
from jaxconv.quantisation.refusals import ORIGINAL
from jaxconv.quantisation.storage import Decoder, Part, Storage

NAME = "modelopt"
METHODS = frozenset({"modelopt", "modelopt_fp4", "modelopt_mixed", "modelopt_mxfp8"})
COMPANION = "hf_quant_config.json"
COMPANIONS: Mapping[str, Mapping[str, str]] = {COMPANION: {"quantization.quant_algo": "quant_algo"}}
SERVING_DTYPES = ("float16", "bfloat16")
TENSOR_LIST: str | None = None

MIXED = "MIXED_PRECISION"
# vLLM 0.32 reads only the first of a flat config, 0.33 the second too.
LISTS = ("ignore", "exclude_modules")
CACHE_SCALES = re.compile(r".*\.[kv]_proj\.[kv]_(scale|bias)|.*\.[qkv]_bmm_quantizer\..*")


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One value of quant_algo.

    Attributes:
        kind: The form in words.
        inputs: Whether a scale of the activations is stored.
        cells: Rows and columns that share a scale; 0 stands for all.
    """

    kind: str
    inputs: bool
    cells: tuple[int, int]


ALGORITHMS: Mapping[str, Algorithm] = {
    "FP8": Algorithm("fp8 with one scale", True, (0, 0)),
    "FP8_PER_CHANNEL_PER_TOKEN": Algorithm("fp8 per channel", False, (1, 0)),
    "FP8_PB_WO": Algorithm("fp8 in blocks of 128 x 128", False, (128, 128)),
    "MXFP8": Algorithm("fp8 in groups of 32", False, (1, 32)),
    "NVFP4": Algorithm("fp4 in groups of 16", True, (1, 16)),
    "W4A16_NVFP4": Algorithm("fp4 in groups of 16, weights alone", False, (1, 16)),
}


@dataclass(frozen=True, slots=True)
class Modelopt:
    """A checkpoint of modelopt. `layers` names the algorithm of each module where they differ."""

    algorithm: str
    layers: Mapping[str, str]
    exclude: tuple[str, ...]
    cache: bool
    warnings: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The method and its algorithms."""
        names = sorted(set(self.layers.values())) if self.algorithm == MIXED else [self.algorithm]
        return f"{NAME}, {'; '.join(f'{ALGORITHMS[name].kind} ({name})' for name in names)}"

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """vLLM alone."""
        used = set(self.layers.values()) | {self.algorithm}
        return consumers(
            vllm="vLLM serves NVFP4 on a GPU only." if any("NVFP4" in name for name in used) else "",
            transformers="It loads the packed codes as if they were weights, says no more than 'unexpected keys', and gives "
            "wrong scores.",
            transformers_reads=False,
        )

    def storage(self, name: str, parameter: Parameter) -> Storage | None:
        """As in `Quantisation`.

        Args:
            name: The parameter's name in a plain checkpoint.
            parameter: Its plain shape and kind.

        Raises:
            SourceError: The weight's shape does not fit its algorithm.
        """
        matrix = matrix_of(name, parameter)
        if matrix is None or containing_or_wildcard(matrix[0], self.exclude):
            return None
        module, shape = matrix
        key = self.layers.get(module) if self.algorithm == MIXED else self.algorithm
        if key is None:
            return None
        algorithm = ALGORITHMS[key]
        parts, decode = _fp4(module, shape) if "NVFP4" in key else _fp8(key, algorithm, shape)
        inputs = (scalar("input_scale", F32),) if algorithm.inputs else ()
        return Storage(module, f"{algorithm.kind} ({key})", shape, (*parts, *inputs), decode)

    def accompanies(self, name: str) -> bool:
        """As in `Quantisation`: whether `name` is a scale of a key-value cache."""
        return self.cache and CACHE_SCALES.fullmatch(name) is not None


def open(config: JsonObject, source: Source) -> Modelopt:
    """As in `Scheme`. The config is flat in config.json, and under "quantization" in the companion.

    Args:
        config: The quantization_config.
        source: The checkpoint with its companion, if it has one.

    Raises:
        SourceError: A value makes no sense, or config.json and the companion disagree.
        RefusedError: vLLM does not read the algorithm.
    """
    config = section(config, "quantization") or config
    companion = section(source.companions.get(COMPANION, {}), "quantization") or {}
    algorithm = _algorithm(config.get("quant_algo"), "quant_algo", (*ALGORITHMS, MIXED))
    layers: dict[str, str] = {}
    if algorithm == MIXED:
        described = section(config, "quantized_layers") or section(companion, "quantized_layers")
        if not described:
            raise SourceError(
                f"quantization_config has quant_algo {MIXED} without quantized_layers, and there is no {COMPANION} that has "
                "them. Get the whole checkpoint."
            )
        layers = {name: _layer(name, described) for name in described}
    excluded = tuple(dict.fromkeys(entry for key in LISTS for entry in strings(config, key) or ()))
    _check_lists(excluded, strings(companion, "exclude_modules"))
    return Modelopt(algorithm, layers, excluded, _has_cache(config))


def _check_lists(excluded: tuple[str, ...], theirs: tuple[str, ...] | None) -> None:
    different = (set(excluded) ^ set(excluded if theirs is None else theirs)) - {"score"}
    if different:
        raise SourceError(
            f"{COMPANION} and config.json leave out different modules: {', '.join(sorted(different)[:5])}. vLLM reads "
            f"config.json: make exclude_modules in {COMPANION} the same."
        )


def keep_score_plain(config: JsonObject) -> JsonObject | None:
    """As in `Scheme`: both lists of `config` where both exist; a new one is `ignore`, which every vLLM reads.

    Mixed precision quantises the modules that it names and no other.
    """
    if section(config, "quantization") is not None:
        return keep_score_plain_in(COMPANION, config)
    if _is_mixed(config):
        return None
    present = [key for key in LISTS if strings(config, key) is not None] or [LISTS[0]]
    edited: JsonObject = config
    for key in present:
        edited = with_entry(edited, key, "score") or edited
    return None if edited is config else edited


def keep_score_plain_in(companion: str, content: JsonObject) -> JsonObject | None:
    """As in `Scheme`: the companion's list is `quantization.exclude_modules`.

    Args:
        companion: The file's name.
        content: Its JSON object.
    """
    nested = section(content, "quantization")
    if companion != COMPANION or nested is None or _is_mixed(nested):
        return None
    edited = with_entry(nested, "exclude_modules", "score")
    return None if edited is None else {**content, "quantization": edited}


def _is_mixed(config: JsonObject) -> bool:
    return str(config.get("quant_algo")).upper() == MIXED


def _algorithm(value: object, key: str, known: tuple[str, ...]) -> str:
    """The algorithm by its name in capitals. modelopt writes some in small letters."""
    if isinstance(value, str) and value.upper() in known:
        return value.upper()
    raise RefusedError(
        f"quantization_config has {value!r} as {key}; expected one of: {', '.join(known)}, those that vLLM reads. {ORIGINAL}"
    )


def _layer(name: str, described: JsonObject) -> str:
    layer = section(described, name) or {}
    return _algorithm(layer.get("quant_algo"), f"quant_algo of {name}", tuple(ALGORITHMS))


def _has_cache(config: JsonObject) -> bool:
    return bool(config.get("kv_cache_quant_algo") or config.get("kv_cache_scheme"))


def _fp8(key: str, algorithm: Algorithm, shape: tuple[int, int]) -> tuple[tuple[Part, ...], Decoder]:
    weight = Part("weight", FP8, (shape,), axis=0)
    decode = CodesTimesScales("weight", "weight_scale", algorithm.cells, shape[1])
    if key == "FP8_PB_WO":
        # One block is written as a number, several as a grid with an axis of one beside each of its own.
        rows, columns = ceil_div(shape[0], 128), ceil_div(shape[1], 128)
        shapes = ((rows, 1, columns, 1), (rows, columns), *(SCALAR if rows == columns == 1 else ()))
        return (weight, Part("weight_scale", F32, shapes, axis=0, features=128)), decode
    if key == "MXFP8":
        return (weight, grid("weight_scale", shape, algorithm.cells, frozenset({"U8", "F8_E8M0"}))), decode
    return (weight, grid("weight_scale", shape, algorithm.cells, F32)), decode


def _fp4(module: str, shape: tuple[int, int]) -> tuple[tuple[Part, ...], Decoder]:
    rows, columns = shape
    if columns % 16:
        raise SourceError(f"{module} is NVFP4 over {columns} inputs; expected a multiple of 16.")
    parts = (
        Part("weight", frozenset({"U8"}), ((rows, columns // 2),), axis=0),
        Part("weight_scale", FP8, ((rows, columns // 16),), axis=0),
        scalar("weight_scale_2", F32),
    )
    return parts, nvfp4("weight", "weight_scale", "weight_scale_2", columns, divide=False)
