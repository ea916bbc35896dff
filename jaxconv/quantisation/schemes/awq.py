"""awq: AutoAWQ's "gemm" layout, words of codes along the output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxconv.checkpoint import Array, TensorRef
from jaxconv.errors import RefusedError, SourceError
from jaxconv.families.parameter import Parameter
from jaxconv.quantisation.codecs import awq_fields, widen
from jaxconv.quantisation.consumers import Consumer, consumers
from jaxconv.quantisation.json_values import JsonObject, flag, strings, whole, with_entry
from jaxconv.quantisation.layouts import FLOATS, matrix_of
from jaxconv.quantisation.matching import containing
from jaxconv.quantisation.protocol import Source
from jaxconv.quantisation.refusals import ORIGINAL
from jaxconv.quantisation.storage import Decoder, Part, Storage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "awq"
METHODS = frozenset({"awq"})
COMPANIONS: Mapping[str, Mapping[str, str]] = {
    "quant_config.json": {"w_bit": "bits", "q_group_size": "group_size", "zero_point": "zero_point", "version": "version"},
    "quantize_config.json": {key: key for key in ("bits", "group_size", "zero_point", "version")},
}
SERVING_DTYPES = ("float16", "bfloat16")
TENSOR_LIST: str | None = None

LIST = "modules_to_not_convert"
WORDS = frozenset({"I32"})
COUNT = 8  # fields of four bits in a word


@dataclass(frozen=True, slots=True)
class Awq:
    """A checkpoint of quant_method awq."""

    group_size: int
    plain: tuple[str, ...]
    tensors: Mapping[str, TensorRef]
    warnings: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The form in words."""
        return "int4 " + ("per channel" if self.group_size == -1 else f"in groups of {self.group_size}")

    @property
    def summary(self) -> str:
        """The method and its form."""
        return f"{NAME}, {self.kind} (gemm)"

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """All three; the two that go through transformers need GPTQModel."""
        return consumers(transformers="transformers needs the package gptqmodel.")

    def storage(self, name: str, parameter: Parameter) -> Storage | None:
        """As in `Quantisation`.

        Args:
            name: The parameter's name in a plain checkpoint.
            parameter: Its plain shape and kind.

        Raises:
            SourceError: The weight's shape does not fit the groups.
        """
        matrix = matrix_of(name, parameter)
        if matrix is None or not self._is_quantised(matrix[0]):
            return None
        module, shape = matrix
        rows, columns = shape
        size = columns if self.group_size == -1 else self.group_size
        if rows % COUNT or columns % size:
            raise SourceError(
                f"{module} of {rows} x {columns} does not fit awq in groups of {size}; expected outputs in eights and inputs "
                "in groups."
            )
        groups = columns // size
        parts = (
            Part("qweight", WORDS, ((columns, rows // COUNT),), axis=1, features=COUNT),
            Part("qzeros", WORDS, ((groups, rows // COUNT),), axis=1, features=COUNT),
            Part("scales", FLOATS, ((groups, rows),), axis=1),
        )
        return Storage(module, f"{self.kind} (gemm)", shape, parts, _decoder(size))

    def accompanies(self, name: str) -> bool:
        """Always false, whatever `name` is: AWQ stores nothing but linears."""
        return False

    def _is_quantised(self, module: str) -> bool:
        """By the list where it has entries, else by the tensors: vLLM looks at their dtypes."""
        if self.plain:
            return not containing(module, self.plain)
        return f"{module}.weight" not in self.tensors or f"{module}.qweight" in self.tensors


def open(config: JsonObject, source: Source) -> Awq:
    """As in `Scheme`. Old files have other words for bits and group size.

    Args:
        config: The quantization_config.
        source: The checkpoint, whose tensors tell which linears are quantised.

    Raises:
        SourceError: A value makes no sense.
        RefusedError: The codes are not in the one form that vLLM reads.
    """
    bits = whole(config, "w_bit" if "w_bit" in config else "bits")
    version = config.get("version", "gemm")
    for value, expected, what in (
        (bits, 4, "bits"),
        (str(version).lower(), "gemm", "version"),
        (flag(config, "zero_point", True), True, "zero_point"),
    ):
        if value != expected:
            raise RefusedError(
                f"quantization_config has {value!r} as {what} of awq; expected {expected!r}, the form that vLLM "
                f"reads. {ORIGINAL}"
            )
    group_size = whole(config, "q_group_size" if "q_group_size" in config else "group_size", minimum=-1)
    if group_size == 0:
        raise SourceError("quantization_config has 0 as group_size; expected -1 or a whole number above 0.")
    return Awq(group_size, strings(config, LIST) or (), source.tensors)


def keep_score_plain(config: JsonObject) -> JsonObject | None:
    """As in `Scheme`. An empty list of `config` stays empty.

    vLLM then derives what is plain from the dtypes, and one entry would stop that.
    """
    return with_entry(config, LIST, "score") if strings(config, LIST) else None


def keep_score_plain_in(companion: str, content: JsonObject) -> JsonObject | None:
    """As in `Scheme`: the companion has the same list.

    Args:
        companion: The file's name.
        content: Its JSON object.
    """
    return keep_score_plain(content) if companion in COMPANIONS else None


def _decoder(size: int) -> Decoder:
    def decode(arrays: Mapping[str, Array], rows: int) -> NDArray[np.float32]:
        import numpy as np

        zeros, scales = widen(awq_fields(arrays["qzeros"], rows)), widen(arrays["scales"])
        values = widen(awq_fields(arrays["qweight"], rows))
        values -= np.repeat(zeros, size, axis=0)
        values *= np.repeat(scales, size, axis=0)
        return values.T

    return decode
