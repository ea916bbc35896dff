"""compressed-tensors: what llm-compressor writes, one form for each group of linears."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jaxconv.errors import RefusedError, SourceError
from jaxconv.families.parameter import Parameter
from jaxconv.quantisation.consumers import Consumer, consumers
from jaxconv.quantisation.json_values import JsonObject, section, strings, with_entry
from jaxconv.quantisation.layouts import matrix_of
from jaxconv.quantisation.matching import REGEX, exactly_or_regex
from jaxconv.quantisation.protocol import Source
from jaxconv.quantisation.refusals import ORIGINAL
from jaxconv.quantisation.schemes._compressed_tensors_forms import NVFP4, STORED, Group, read_group, stored_inputs
from jaxconv.quantisation.storage import Storage

NAME = "compressed-tensors"
METHODS = frozenset({"compressed-tensors", "compressed_tensors"})
COMPANIONS: Mapping[str, Mapping[str, str]] = {}
SERVING_DTYPES = ("float32", "float16", "bfloat16")
TENSOR_LIST: str | None = None

# The class that a target may name instead of modules, by the kind of a parameter. vLLM's classes contain these words.
CLASSES = {"linear": "Linear", "embedding": "Embedding"}
CACHE_SCALES = re.compile(r".*\.self_attn\.([qkv]_(scale|zero_point)|[kv]_proj\.output_scale)")
DEQUANTISE = (
    'Load with model_kwargs={"quantization_config": CompressedTensorsConfig(dequantize=True)}: CrossEncoder otherwise loads '
    "the packed weights and fails in predict."
)


@dataclass(frozen=True, slots=True)
class CompressedTensors:
    """A checkpoint of compressed-tensors."""

    groups: tuple[Group, ...]
    ignore: tuple[str, ...]
    cache: bool
    warnings: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The method and its forms."""
        return f"{NAME}, {'; '.join(dict.fromkeys(group.kind for group in self.groups))}"

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """All three, with what was measured."""
        needs = "transformers needs the package compressed-tensors."
        if any(group.format == NVFP4 for group in self.groups):
            return consumers(
                vllm="vLLM serves NVFP4 on a GPU only.",
                transformers=f"{needs} NVFP4 runs in bfloat16 alone: float32 raises an error.",
                sentence_transformers=DEQUANTISE,
            )
        return consumers(transformers=needs, sentence_transformers=DEQUANTISE)

    def storage(self, name: str, parameter: Parameter) -> Storage | None:
        """As in `Quantisation`.

        Args:
            name: The parameter's name in a plain checkpoint.
            parameter: Its plain shape and kind.

        Raises:
            SourceError: Two groups store the module differently, or the weight is not of a shape that its group can store.
        """
        matrix = matrix_of(name, parameter, tuple(CLASSES))
        if matrix is None or exactly_or_regex(matrix[0], self.ignore):
            return None
        module, shape = matrix
        group = self._group(module, CLASSES[parameter.kind])
        if group is None:
            return None
        parts, decode = STORED[group.format](group, module, shape)
        return Storage(module, group.kind, shape, (*parts, *stored_inputs(group)), decode)

    def accompanies(self, name: str) -> bool:
        """As in `Quantisation`: whether `name` is a scale of a key-value cache."""
        return self.cache and CACHE_SCALES.fullmatch(name) is not None

    def _group(self, module: str, class_name: str) -> Group | None:
        """The group of a module: by its name first, then by its class."""
        names = [group for group in self.groups if exactly_or_regex(module, group.targets)]
        candidates = names or [group for group in self.groups if class_name in group.targets]
        if len({group.kind for group in candidates}) > 1:
            raise SourceError(
                f"quantization_config puts {module} into {' and '.join(group.name for group in candidates)}, which store "
                "weights differently: readers disagree on which one counts. Keep one target for it."
            )
        return candidates[0] if candidates else None


def open(config: JsonObject, source: Source) -> CompressedTensors:
    """As in `Scheme`.

    Args:
        config: The quantization_config.
        source: Not used: the configuration says everything.

    Raises:
        SourceError: A value makes no sense, or the groups are missing.
        RefusedError: The configuration has sparsity or rotations.
    """
    for key, what in (("sparsity_config", "2:4 or bitmask sparsity"), ("transform_config", "rotations of the activations")):
        if section(config, key):
            raise RefusedError(f"quantization_config has a {key} ({what}), which jaxconv does not know. {ORIGINAL}")
    groups = section(config, "config_groups")
    if not groups:
        raise SourceError(
            "quantization_config has no config_groups; expected the groups of modules and their weights. The file comes from "
            "a version of compressed-tensors before 0.6 or is incomplete: save the model with a current llm-compressor."
        )
    read = tuple(group for name in groups if (group := read_group(name, groups, config)) is not None)
    return CompressedTensors(
        read,
        strings(config, "ignore") or (),
        bool(section(config, "kv_cache_scheme")),
        tuple(_warnings(groups, read)),
    )


def keep_score_plain(config: JsonObject) -> JsonObject | None:
    """As in `Scheme`: both readers take an exact name from `ignore` of `config`.

    Targets that name other modules leave `score` plain.
    """
    groups = section(config, "config_groups") or {}
    targets = [target for name in groups for target in strings(section(groups, name) or {}, "targets") or ()]
    # What is neither a path nor a pattern is the name of a class, and `score` is a linear.
    reached = exactly_or_regex("score", targets) or any(
        "." not in target and not target.startswith(REGEX) for target in targets
    )
    return with_entry(config, "ignore", "score") if reached else None


def keep_score_plain_in(companion: str, content: JsonObject) -> JsonObject | None:
    """Always None: the method does not have companions.

    Args:
        companion: Not used.
        content: Not used.
    """
    return None


def _warnings(groups: JsonObject, read: tuple[Group, ...]) -> Iterator[str]:
    """What vLLM refuses of these groups."""
    for group in read:
        weights = section(section(groups, group.name) or {}, "weights") or {}
        if weights.get("actorder") in ("group", "dynamic"):
            yield f"{group.name} orders weights by activation (actorder {weights['actorder']}), which vLLM refuses to load."
        if group.format == "int-quantized" and not group.symmetric:
            yield f"{group.name} has int8 weights that are not symmetric, which vLLM refuses to load."
