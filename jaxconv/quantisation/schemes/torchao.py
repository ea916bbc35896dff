"""torchao: tensor subclasses taken apart, each one's kind a JSON text in the metadata of the safetensors file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from jaxconv.checkpoint import TensorRef
from jaxconv.errors import RefusedError, SourceError
from jaxconv.families.parameter import Parameter
from jaxconv.json_files import parse_json
from jaxconv.quantisation.consumers import Consumer, consumers
from jaxconv.quantisation.json_values import JsonObject, flag, pair, section, strings, with_entry
from jaxconv.quantisation.layouts import FLOATS, FP8, INT8, CodesTimesScales, grid, matrix_of
from jaxconv.quantisation.protocol import Source
from jaxconv.quantisation.refusals import ORIGINAL
from jaxconv.quantisation.storage import Part, Storage

NAME = "torchao"
METHODS = frozenset({"torchao"})
COMPANIONS: Mapping[str, Mapping[str, str]] = {}
SERVING_DTYPES = ("float32", "float16", "bfloat16")
TENSOR_LIST = "tensor_names"

LIST = "modules_to_not_convert"
PLAIN = "Tensor"
CODES, SCALE, ZERO = "_weight_qdata", "_weight_scale", "_weight_zero_point"
# Kind of a tensor -> in words, and the dtypes of its codes. All are (code - zero point) · scale of the block.
KINDS: Mapping[str, tuple[str, frozenset[str]]] = {
    "Int8Tensor": ("int8", INT8),
    "IntxUnpackedToInt8Tensor": ("int8 codes of fewer bits", INT8),
    "Float8Tensor": ("fp8", FP8),
}


@dataclass(frozen=True, slots=True)
class Torchao:
    """A checkpoint of torchao. `kinds` are the descriptions in the metadata, by parameter."""

    config_name: str
    kinds: Mapping[str, JsonObject]
    tensors: Mapping[str, TensorRef]
    warnings: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The method and the config that it was saved with."""
        return f"{NAME}, {self.config_name}"

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """All that have torchao."""
        return consumers(vllm="vLLM needs the package torchao.", transformers="transformers needs the package torchao.")

    def storage(self, name: str, parameter: Parameter) -> Storage | None:
        """As in `Quantisation`.

        Args:
            name: The parameter's name in a plain checkpoint.
            parameter: Its plain shape and kind.

        Raises:
            SourceError: The metadata does not say what its blocks are.
            RefusedError: Its kind is one whose form depends on the machine that wrote it.
        """
        described = self.kinds.get(name)
        if described is None or described.get("_type") == PLAIN:
            return None
        kind, matrix = described.get("_type"), matrix_of(name, parameter)
        if kind not in KINDS or matrix is None:
            raise RefusedError(
                f"{name} is a {kind!r} of torchao; expected one of: {', '.join(KINDS)}. How the others lie in the file "
                f"depends on the machine that wrote them. {ORIGINAL}"
            )
        module, shape = matrix
        block = pair(section(described, "_data") or {}, "block_size")
        if block is None or block[0] not in (1, shape[0]):
            raise SourceError(f"The metadata of {name} has {block} as block_size; expected rows of 1 or all, and columns.")
        words, dtypes = KINDS[str(kind)]
        parts = [Part(CODES, dtypes, (shape,), axis=0), grid(SCALE, shape, block)]
        if ZERO.removeprefix("_weight_") in (strings(described, "_tensor_data_names") or ()):
            parts.append(grid(ZERO, shape, block, INT8 | FLOATS))
        scope = "per channel" if block == (1, shape[1]) else f"in blocks of {block[0]} x {block[1]}"
        return Storage(
            module, f"{words} {scope} ({kind})", shape, tuple(parts), CodesTimesScales(CODES, SCALE, block, shape[1], ZERO)
        )

    def accompanies(self, name: str) -> bool:
        """Always false, whatever `name` is: torchao stores nothing but parameters."""
        return False


def open(config: JsonObject, source: Source) -> Torchao:
    """As in `Scheme`.

    Args:
        config: The quantization_config.
        source: The checkpoint, whose metadata has the kind of each tensor.

    Raises:
        SourceError: A value makes no sense, or the metadata does not have the kinds.
    """
    kinds = {name: kind for name, text in source.metadata.items() if "." in name and (kind := _described(name, text))}
    if not kinds:
        raise SourceError(
            "quantization_config says torchao, and the files hold no metadata of torchao, which names the kind of each "
            "tensor. Get the checkpoint again, or save it with transformers 5 and torchao 0.15 or newer."
        )
    _check_list(source.metadata)
    strings(config, LIST)
    flag(config, "include_input_output_embeddings", False)
    default = section(section(config, "quant_type") or {}, "default") or {}
    return Torchao(str(default.get("_type", "unnamed")), kinds, source.tensors)


def keep_score_plain(config: JsonObject) -> JsonObject | None:
    """As in `Scheme`: `score` joins modules_to_not_convert of `config`."""
    return with_entry(config, LIST, "score")


def keep_score_plain_in(companion: str, content: JsonObject) -> JsonObject | None:
    """Always None: the method does not have companions.

    Args:
        companion: Not used.
        content: Not used.
    """
    return None


def _check_list(metadata: Mapping[str, str]) -> None:
    """Raises `SourceError` unless the metadata lists the tensors: vLLM leaves out what is not listed."""
    names = parse_json(metadata.get(TENSOR_LIST, "null"), f"{TENSOR_LIST} of the metadata", "Get the checkpoint again.")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise SourceError(
            f"The metadata of the weight files has {names!r:.80} as {TENSOR_LIST}; expected a list of the tensors' names, "
            "without which torchao's readers load nothing. Get the checkpoint again, or save it with torchao 0.15 or newer."
        )


def _described(name: str, text: str) -> JsonObject | None:
    """The JSON object of one parameter; None where the metadata speaks of something else."""
    if not re.fullmatch(r"\s*\{.*\}\s*", text, re.DOTALL):
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SourceError(f"The metadata of {name} is not JSON: {error}. Get the checkpoint again.") from error
    return value if isinstance(value, dict) and "_type" in value else None
