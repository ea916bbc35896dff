"""fp8: DeepSeek's and Qwen's blocks of 128 x 128, and AutoFP8's one scale per linear."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jaxconv.checkpoint import TensorRef
from jaxconv.errors import SourceError
from jaxconv.families.parameter import Parameter
from jaxconv.quantisation.consumers import Consumer, consumers
from jaxconv.quantisation.json_values import JsonObject, pair, strings, text, with_entry
from jaxconv.quantisation.layouts import FLOATS, FP8, CodesTimesScales, grid, matrix_of, scalar
from jaxconv.quantisation.matching import exactly
from jaxconv.quantisation.protocol import Source
from jaxconv.quantisation.storage import Part, Storage

NAME = "fp8"
METHODS = frozenset({"fp8"})
COMPANIONS: Mapping[str, Mapping[str, str]] = {}
SERVING_DTYPES = ("float16", "bfloat16")
TENSOR_LIST: str | None = None

# vLLM reads the first that is not empty, transformers the second unless it is absent.
LISTS = ("ignored_layers", "modules_to_not_convert")
CACHE_SCALES = re.compile(r".*\.self_attn\.([kv]_proj\.)?(kv|k|v)_scale|.*\.[kv]_proj\.output_scale")
# Names of the scales of weight and activations: vLLM's, and transformers'.
STATIC_NAMES = (("weight_scale", "input_scale"), ("weight_scale_inv", "activation_scale"))


@dataclass(frozen=True, slots=True)
class Fp8:
    """A checkpoint of quant_method fp8."""

    block: tuple[int, int] | None
    static_inputs: bool
    plain: tuple[str, ...]
    byte_scales: bool
    cache: bool
    tensors: Mapping[str, TensorRef]
    warnings: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The form in words."""
        return f"fp8 in blocks of {self.block[0]} x {self.block[1]}" if self.block else "fp8 with one scale"

    @property
    def summary(self) -> str:
        """The method and its form."""
        return f"{NAME}, {self.kind.removeprefix('fp8 ')}{', static activations' if self.static_inputs else ''}"

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """Blocks are read by all. One scale is read by those who know its name."""
        if self.block and (partial := self._partial()):
            return consumers(
                transformers=f"Without a GPU that has fp8, transformers takes a wrong size of blocks for {partial}, whose "
                "sides are not multiples of a block, and gives wrong scores without an error.",
                transformers_reads=False,
            )
        if self.block:
            return consumers(
                transformers="Without a GPU that has fp8, transformers dequantises the weights when it loads them."
            )
        if self._names("") == STATIC_NAMES[1]:
            return consumers(vllm=f"It does not know these names of scales ({', '.join(STATIC_NAMES[1])}).", vllm_reads=False)
        wrong = "It expects other names of scales, says no more than 'unexpected keys', and gives wrong scores."
        return consumers(transformers=wrong, transformers_reads=False)

    def storage(self, name: str, parameter: Parameter) -> Storage | None:
        """As in `Quantisation`.

        Args:
            name: The parameter's name in a plain checkpoint.
            parameter: Its plain shape and kind.

        Raises:
            SourceError: The weight is not a matrix.
        """
        matrix = matrix_of(name, parameter)
        if matrix is None or exactly(matrix[0], self.plain):
            return None
        module, shape = matrix
        weight = Part("weight", FP8, (shape,), axis=0)
        if self.block:
            scales = FLOATS | {"F8_E8M0"} | ({"U8"} if self.byte_scales else set())
            parts: tuple[Part, ...] = (weight, grid("weight_scale_inv", shape, self.block, frozenset(scales)))
            return Storage(
                module, self.kind, shape, parts, CodesTimesScales("weight", "weight_scale_inv", self.block, shape[1])
            )
        scale, inputs = self._names(module)
        parts = (weight, scalar(scale), *([scalar(inputs)] if self.static_inputs else []))
        return Storage(module, self.kind, shape, parts, CodesTimesScales("weight", scale, (0, 0), shape[1]))

    def accompanies(self, name: str) -> bool:
        """As in `Quantisation`: whether `name` is a scale of a key-value cache."""
        return self.cache and CACHE_SCALES.fullmatch(name) is not None

    def _partial(self) -> str:
        """The first weight that its scales do not divide into whole blocks; empty if there is none.

        transformers takes the side of the weight over that of the grid for the size of a block: a single one may be partial.
        """
        for name, ref in self.tensors.items():
            scale = self.tensors.get(f"{name}_scale_inv")
            if self.block and scale is not None and len(ref.shape) == len(scale.shape) == 2:
                sides = zip(ref.shape, scale.shape, self.block, strict=True)
                if any(count > 1 and size != count * block for size, count, block in sides):
                    return name
        return ""

    def _names(self, module: str) -> tuple[str, str]:
        """The names of the scales that a module has; without a module, those that any has."""
        names = STATIC_NAMES[1]
        stored = f"{module}.{names[0]}" in self.tensors if module else any(name.endswith(names[0]) for name in self.tensors)
        return names if stored else STATIC_NAMES[0]


def open(config: JsonObject, source: Source) -> Fp8:
    """As in `Scheme`.

    Args:
        config: The quantization_config.
        source: The checkpoint, whose tensors tell how the scales are called.

    Raises:
        SourceError: A value makes no sense, or two lists disagree.
    """
    block = pair(config, "weight_block_size")
    scheme = text(config, "activation_scheme", ("dynamic", "static"))
    if block and scheme == "static":
        raise SourceError("quantization_config has weight_block_size with static activations, which no reader takes.")
    if config.get("fmt") not in (None, "e4m3"):
        raise SourceError(f"quantization_config has {config['fmt']!r} as fmt; expected e4m3, the one that its readers know.")
    lists = [strings(config, key) for key in LISTS]
    names = [set(entries) - {"score"} for entries in lists if entries]
    if len(names) == 2 and names[0] != names[1]:
        raise SourceError(
            f"quantization_config has two lists that disagree: {LISTS[0]} and {LISTS[1]} differ in "
            f"{', '.join(sorted(names[0] ^ names[1])[:5])}. vLLM reads the first, transformers the second: make them equal."
        )
    return Fp8(
        block=block,
        static_inputs=scheme == "static",
        plain=lists[0] or lists[1] or (),
        byte_scales=config.get("scale_fmt") == "ue8m0",
        cache=bool(config.get("kv_cache_scheme")),
        tensors=source.tensors,
    )


def keep_score_plain(config: JsonObject) -> JsonObject | None:
    """As in `Scheme`: both lists of `config` where both exist, since each reader looks at another one first."""
    present = [key for key in LISTS if strings(config, key) is not None] or [LISTS[1]]
    edited: JsonObject = config
    for key in present:
        edited = with_entry(edited, key, "score") or edited
    return None if edited is config else edited


def keep_score_plain_in(companion: str, content: JsonObject) -> JsonObject | None:
    """Always None: the method does not have companions.

    Args:
        companion: Not used.
        content: Not used.
    """
    return None
