"""gptq: AutoGPTQ's and GPTQModel's words of codes along the input, zero points along the output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxconv.checkpoint import Array, TensorRef
from jaxconv.errors import RefusedError, SourceError
from jaxconv.families.parameter import Parameter
from jaxconv.quantisation.codecs import fields, fields_down, gathered, widen
from jaxconv.quantisation.consumers import Consumer, consumers
from jaxconv.quantisation.json_values import JsonObject, flag, section, text, whole
from jaxconv.quantisation.layouts import FLOATS, ceil_div, matrix_of
from jaxconv.quantisation.protocol import Source
from jaxconv.quantisation.storage import Decoder, Part, Storage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "gptq"
METHODS = frozenset({"gptq"})
COMPANIONS: Mapping[str, Mapping[str, str]] = {
    "quantize_config.json": {key: key for key in ("bits", "group_size", "sym", "desc_act", "checkpoint_format")}
}
SERVING_DTYPES = ("float16", "bfloat16")
TENSOR_LIST: str | None = None

# v1 stores each zero point less one, v2 as it is.
FORMATS = ("gptq", "gptq_v2")
WORDS = frozenset({"I32"})


@dataclass(frozen=True, slots=True)
class Settings:
    """How the words of a module are read."""

    bits: int
    group_size: int
    symmetric: bool

    @property
    def kind(self) -> str:
        """The form in words."""
        scope = "per channel" if self.group_size == -1 else f"in groups of {self.group_size}"
        return f"int{self.bits} {scope}{'' if self.symmetric else ', asymmetric'}"


@dataclass(frozen=True, slots=True)
class Gptq:
    """A checkpoint of quant_method gptq. `dynamic` overrides the settings of modules that match a pattern."""

    settings: Settings
    format: str
    modules: tuple[str, ...]
    dynamic: Mapping[str, JsonObject]
    tensors: Mapping[str, TensorRef]
    warnings: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The method and its form."""
        return f"{NAME}, {self.settings.kind} ({self.format})"

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """All three; the two that go through transformers need GPTQModel."""
        return consumers(transformers="transformers needs the packages gptqmodel and optimum.")

    def storage(self, name: str, parameter: Parameter) -> Storage | None:
        """As in `Quantisation`.

        Args:
            name: The parameter's name in a plain checkpoint.
            parameter: Its plain shape and kind.

        Raises:
            SourceError: The settings of the module make no sense, or the weight is not a matrix.
            RefusedError: Its words have a number of bits that vLLM does not read.
        """
        matrix = matrix_of(name, parameter)
        if matrix is None:
            return None
        module, shape = matrix
        settings = self._settings(module)
        if settings is None or not self._is_quantised(module):
            return None
        rows, columns = shape
        count = 32 // settings.bits
        groups = 1 if settings.group_size == -1 else ceil_div(columns, settings.group_size)
        parts = (
            Part("qweight", WORDS, ((ceil_div(columns, count), rows),), axis=1),
            Part("qzeros", WORDS, ((groups, ceil_div(rows, count)),), axis=1, features=count),
            Part("scales", FLOATS, ((groups, rows),), axis=1),
            Part("g_idx", WORDS, ((columns,),), required=False),
        )
        return Storage(module, f"{settings.kind} ({self.format})", shape, parts, self._decoder(module, settings, shape))

    def accompanies(self, name: str) -> bool:
        """As in `Quantisation`: whether `name` is a bias beside words of codes.

        AutoGPTQ stored zeros as the bias of linears without one; vLLM passes over them.
        """
        module, _, leaf = name.rpartition(".")
        return leaf == "bias" and f"{module}.qweight" in self.tensors

    def _settings(self, module: str) -> Settings | None:
        """What holds for a module; None where a pattern leaves it plain. The first pattern that matches counts."""
        for pattern, overrides in self.dynamic.items():
            try:
                matches = re.match(pattern.removeprefix("+:").removeprefix("-:"), module)
            except re.error as error:
                raise SourceError(f"quantization_config has the pattern {pattern!r} in dynamic: {error}.") from error
            if matches:
                return None if pattern.startswith("-:") else _settings({**_as_config(self.settings), **overrides})
        return self.settings

    def _is_quantised(self, module: str) -> bool:
        """By the list where there is one, else by the tensors: vLLM looks at their dtypes."""
        if self.modules:
            return any(entry in module for entry in self.modules)
        return f"{module}.weight" not in self.tensors or f"{module}.qweight" in self.tensors

    def _decoder(self, module: str, settings: Settings, shape: tuple[int, int]) -> Decoder:
        columns, lowered = shape[1], self.format == "gptq"

        def decode(arrays: Mapping[str, Array], rows: int) -> NDArray[np.float32]:
            import numpy as np

            scales, zeros = widen(arrays["scales"]), fields(arrays["qzeros"], settings.bits, rows)
            top = (1 << settings.bits) - 1
            if lowered and (zeros == top).any():
                raise RefusedError(
                    f"{module}.qzeros holds a zero point of 0 in the format gptq, which stores it as {top}: its readers "
                    "disagree on the value. Save the checkpoint in the format gptq_v2."
                )
            group = np.arange(columns) // (columns if settings.group_size == -1 else settings.group_size)
            if "g_idx" in arrays:
                group = gathered(arrays["g_idx"], len(scales), module)
            values = widen(fields_down(arrays["qweight"], settings.bits, columns))
            values -= (widen(zeros) + np.float32(lowered))[group]
            values *= scales[group]
            return values.T

        return decode


def open(config: JsonObject, source: Source) -> Gptq:
    """As in `Scheme`.

    Args:
        config: The quantization_config.
        source: The checkpoint, whose tensors tell which linears are quantised.

    Raises:
        SourceError: A value makes no sense.
        RefusedError: The words are Marlin's, or of a number of bits that vLLM does not read.
    """
    if flag(config, "is_marlin_format", False):
        raise RefusedError(
            "quantization_config has is_marlin_format: expected plain GPTQ. Convert the checkpoint it was made from."
        )
    stored = text({"checkpoint_format": config.get("checkpoint_format") or FORMATS[0]}, "checkpoint_format", FORMATS)
    settings = _settings(config)
    dynamic = section(config, "dynamic") or {}
    for pattern in dynamic:
        section(dynamic, pattern)
    warnings = []
    if flag(config, "desc_act", False) and settings.group_size != -1:
        warnings.append("desc_act is true with groups, which vLLM refuses to load: quantise with desc_act false for vLLM.")
    if not settings.symmetric:
        warnings.append("sym is false: vLLM refuses asymmetric GPTQ.")
    modules = tuple(_flat(config.get("modules_in_block_to_quantize")))
    overrides: dict[str, JsonObject] = {pattern: section(dynamic, pattern) or {} for pattern in dynamic}
    return Gptq(settings, stored, modules, overrides, source.tensors, tuple(warnings))


def keep_score_plain(config: JsonObject) -> JsonObject | None:
    """Always None, whatever `config` says: vLLM derives what is plain from the stored dtypes, and `score` is F32."""
    return None


def keep_score_plain_in(companion: str, content: JsonObject) -> JsonObject | None:
    """Always None: `score` is plain by its dtype.

    Args:
        companion: Not used.
        content: Not used.
    """
    return None


def _settings(config: JsonObject) -> Settings:
    bits = whole(config, "bits")
    if bits not in (4, 8):
        raise RefusedError(f"quantization_config has {bits} bits; expected 4 or 8, the ones that vLLM reads of GPTQ.")
    group_size = whole(config, "group_size", minimum=-1)
    if group_size == 0:
        raise SourceError("quantization_config has 0 as group_size; expected -1 or a whole number above 0.")
    return Settings(bits, group_size, flag(config, "sym", True))


def _as_config(settings: Settings) -> dict[str, object]:
    return {"bits": settings.bits, "group_size": settings.group_size, "sym": settings.symmetric}


def _flat(value: object) -> list[str]:
    """The names in a list of names or of lists of names."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise SourceError(
            f"quantization_config has {value!r:.120} as modules_in_block_to_quantize; expected a list of module names."
        )
    return [name for entry in value for name in _flat(entry)]
