"""Stage 2b: a PEFT LoRA adapter, merged into the tensors of its base as they are read.

    W + scaling x B A,  scaling = alpha / r, or alpha / sqrt(r) with use_rslora

computed in float32 and rounded once to the dtype of W. Source: peft 0.21, tuners/lora (layer.py, config.py) and
utils/save_and_load.py. An adapter that this formula does not describe is refused by name.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxconv.checkpoint import TensorRef
from jaxconv.errors import RefusedError, SourceError
from jaxconv.file_errors import reading
from jaxconv.json_files import JsonObject, is_finite_number, read_json
from jaxconv.layouts.hf import standard_names
from jaxconv.readers.safetensors import read_shard
from jaxconv.storage import File, FileIdentity, read_blocks

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# (A, B, whether their product is transposed) by the kind of module.
FACTORS = ((".lora_A.weight", ".lora_B.weight", False), (".lora_embedding_A", ".lora_embedding_B", True))
# What PEFT leaves out of the names when it saves and other writers keep: the adapter's name, the wrapper of a whole module.
EXTRA_PARTS = (
    (re.compile(r"\.lora_([AB])\.[^.]+\.weight$"), r".lora_\1.weight"),
    (re.compile(r"\.lora_embedding_([AB])\.[^.]+$"), r".lora_embedding_\1"),
    (re.compile(r"\.modules_to_save\.[^.]+\."), "."),
    (re.compile(r"\.base_layer\."), "."),  # PEFT saves an embedding beside its factors
)
# adapter_config.json keys that change the LoRA formula -> the values with no effect.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "use_dora": (None, False),
    "fan_in_fan_out": (None, False),
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (None, False),
    "use_bdlora": (None, False),
    **{f"{kind}_config": (None,) for kind in ("megatron", "arrow", "kasa", "velora", "monteclora", "lora_ga")},
    # pissa, olora, corda and others subtract their start from the base when they are loaded
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
}


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of one weight matrix.

    Attributes:
        a: The factor A.
        b: The factor B.
        transposed: Whether the change is (B A) transposed, as for embeddings.
        scaling: What the product is multiplied by.
    """

    a: TensorRef
    b: TensorRef
    transposed: bool
    scaling: float


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        path: Its directory.
        factors: Factors by the name of the base's weight.
        replaced: Whole tensors by the name of the base's tensor that they replace.
        base: The base that the adapter records.
        sha256: The hash of its weights.
        files: What its files were when their headers were read.
    """

    path: File
    factors: Mapping[str, Factors]
    replaced: Mapping[str, TensorRef]
    base: str | None
    sha256: str
    files: Mapping[File, FileIdentity]


def read_adapter(directory: File, named: Callable[[Sequence[str]], Mapping[str, str]] = standard_names) -> Adapter:
    """Reads the config and the header of an adapter.

    Args:
        directory: The directory of the adapter.
        named: The names that the base's checkpoint has for the tensors that PEFT names.

    Returns:
        The adapter; its tensors are read when they are merged.

    Raises:
        SourceError: A file is missing or damaged.
        RefusedError: The adapter is not a plain LoRA.
    """
    config = _config(directory / CONFIG)
    path = directory / WEIGHTS
    if not path.is_file():
        raise SourceError(
            f"{directory} has no {WEIGHTS}; expected it beside {CONFIG}. Load the adapter with PEFT and save it again: "
            "save_pretrained writes safetensors."
        )
    _, tensors, identity = read_shard(path)
    modules = _modules(tensors, path)
    factors: dict[str, Factors] = {}
    replaced: dict[str, TensorRef] = {}
    for module, a in modules.items():
        kind = next((kind for kind in FACTORS if module.endswith(kind[:2])), None)
        if kind is None:
            replaced[module] = a
        elif module.endswith(kind[0]):
            name = module.removesuffix(kind[0])
            b = modules.get(name + kind[1])
            if b is None:
                raise SourceError(f"{path} has {a.name} without its {kind[1]}. The adapter is incomplete; copy it again.")
            if len(a.shape) != 2 or len(b.shape) != 2 or not {a.dtype, b.dtype} <= FLOATS:
                raise SourceError(f"{path}: {a.name} and its {kind[1]} are not matrices of floats. Copy the adapter again.")
            factors[f"{name}.weight"] = Factors(a, b, kind[2], _scaling(config, name, a.shape[0]))
    if len(tensors) != 2 * len(factors) + len(replaced) or not tensors:
        raise SourceError(
            f"{path} holds {len(tensors)} tensors that do not pair up. The adapter is incomplete; copy it again."
        )
    names = named([*factors, *replaced])
    digest = hashlib.sha256()
    with reading(path):
        for block in read_blocks(path, 0, identity.size):
            digest.update(block)
    base = config.get("base_model_name_or_path")
    return Adapter(
        directory,
        {names[name]: entry for name, entry in factors.items()},
        {names[name]: ref for name, ref in replaced.items()},
        base if isinstance(base, str) else None,
        digest.hexdigest(),
        {path: identity},
    )


def _modules(tensors: Mapping[str, TensorRef], path: File) -> dict[str, TensorRef]:
    """The tensors by their names without PEFT's prefix and the adapter's own name."""
    modules: dict[str, TensorRef] = {}
    for name, ref in tensors.items():
        if not name.startswith(PREFIX) or ".lora_magnitude" in name:
            raise RefusedError(f"{path} holds {name}, which is not part of a plain LoRA of a causal LM; merge it with PEFT.")
        module = name.removeprefix(PREFIX)
        for pattern, replacement in EXTRA_PARTS:
            module = pattern.sub(replacement, module)
        if module in modules:
            raise RefusedError(f"{path} holds several adapters ({modules[module].name}, {name}); expected one.")
        modules[module] = ref
    return modules


def _config(path: File) -> JsonObject:
    config = read_json(path)
    if config is None:
        raise SourceError(f"--adapter {path.parent} has no {path.name}; expected the directory of a PEFT adapter.")
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise RefusedError(f"{path} is of type {kind}; expected LORA. Merge it with PEFT (merge_and_unload) first.")
    if config.get("task_type") == "SEQ_CLS":
        raise RefusedError(
            f"{path} was trained for SEQ_CLS and brings a score head of its own; expected an adapter of the causal LM. "
            "Merge it with PEFT and serve that."
        )
    for key, neutral in NEUTRAL.items():
        if config.get(key) not in neutral:
            raise RefusedError(
                f"{path} has {key} {config[key]!r}, so it is not a plain LoRA; expected W + scaling x B A. "
                "Merge it with PEFT (merge_and_unload) first, then convert that."
            )
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(key) or {}, dict):
            raise SourceError(f"{path} has {config[key]!r:.100} as {key}; expected an object. Copy the adapter again.")
    return config


def _scaling(config: JsonObject, module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r); patterns match the end of a module's name, as PEFT's do."""
    alpha = _setting(config, "lora_alpha", "alpha_pattern", module)
    declared = _setting(config, "r", "rank_pattern", module)
    if declared != rank or rank == 0 or not is_finite_number(alpha):
        raise SourceError(
            f"module {module} has rank {rank}, but {CONFIG} has r {declared!r:.100} and lora_alpha {alpha!r:.100}. Copy the "
            "adapter again."
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _setting(config: JsonObject, key: str, patterns: str, module: str) -> Any:
    """The value of a key for a module: that of the first pattern that matches, else the key's own."""
    for pattern, value in (config.get(patterns) or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise SourceError(
                f"{CONFIG} has {pattern!r:.100} in {patterns}, which is not a regular expression ({error}). Copy the adapter "
                "again."
            ) from None
    return config.get(key)
