"""What a scheme provides, and what one checkpoint's quantisation answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from jaxconv.checkpoint import TensorRef
from jaxconv.families.parameter import Parameter
from jaxconv.quantisation.consumers import Consumer
from jaxconv.quantisation.json_values import JsonObject
from jaxconv.quantisation.storage import Storage


@dataclass(frozen=True, slots=True)
class Source:
    """What a scheme may look at beside its configuration.

    Attributes:
        tensors: The checkpoint's tensors by name; only names, dtypes and shapes are looked at.
        metadata: The container's metadata, in which torchao records the kinds of its tensors.
        companions: The JSON files beside config.json that speak of quantisation, by file name.
    """

    tensors: Mapping[str, TensorRef]
    metadata: Mapping[str, str] = field(default_factory=dict)
    companions: Mapping[str, JsonObject] = field(default_factory=dict)


class Quantisation(Protocol):
    """How one checkpoint is quantised."""

    @property
    def summary(self) -> str:
        """The scheme in words, as in "compressed-tensors, int4 in groups of 128"."""
        ...

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """vLLM, transformers and sentence-transformers: who reads the output, with what in mind."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the source, a sentence or two each."""
        ...

    def storage(self, name: str, parameter: Parameter) -> Storage | None:
        """How a parameter is stored; None where it is plain.

        Args:
            name: The parameter's name in a plain checkpoint, as in "model.layers.0.mlp.up_proj.weight".
            parameter: Its plain shape and kind.

        Raises:
            SourceError: The configuration says two things of this parameter, or nothing that can be read.
        """
        ...

    def accompanies(self, name: str) -> bool:
        """Whether the tensor `name` belongs to the scheme but not to a parameter, as the scales of a key-value cache do."""
        ...


class Scheme(Protocol):
    """What every module of `schemes/` provides."""

    NAME: str
    # Values of quant_method.
    METHODS: frozenset[str]
    # Companion file -> its keys that must say what config.json says: key there (dotted) -> key in quantization_config.
    COMPANIONS: Mapping[str, Mapping[str, str]]
    # What vLLM takes for --dtype: it refuses to serve the method in any other.
    SERVING_DTYPES: tuple[str, ...]
    # The metadata key under which a file lists its tensors, where readers leave out what is not listed; else None.
    TENSOR_LIST: str | None

    def open(self, config: JsonObject, source: Source) -> Quantisation:
        """Reads a quantization_config.

        Args:
            config: The quantization_config, or what stands for it in a companion file.
            source: The checkpoint's tensors, metadata and companion files.

        Raises:
            SourceError: The configuration makes no sense.
            RefusedError: No reader would serve the output.
        """
        ...

    def keep_score_plain(self, config: JsonObject) -> JsonObject | None:
        """`config`, a quantization_config, with `score` kept plain; None where it need not change.

        Only the entry is added.
        """
        ...

    def keep_score_plain_in(self, companion: str, content: JsonObject) -> JsonObject | None:
        """A companion file with `score` kept plain; None where it need not change.

        Args:
            companion: The file's name.
            content: Its JSON object.
        """
        ...
