"""Stage 2b: a PEFT LoRA adapter merged into the tensors of its base, each when it is read.

    W + scaling x B A,  scaling = alpha / r, or alpha / sqrt(r) with use_rslora

computed in float32 and rounded once to the dtype of W. Source: peft 0.21, tuners/lora (layer.py, config.py) and
utils/save_and_load.py. An adapter that this formula does not describe is refused by name.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import Array, Checkpoint, FileIdentity, TensorRef, numpy_dtype
from jaxconv.errors import RefusedError, SourceError
from jaxconv.json_files import read_json
from jaxconv.readers.safetensors import read_shard

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
FLOATS = ("F64", "F32", "F16", "BF16")
BLOCK = 1 << 25  # bytes of float32 that are merged at a time
# (A, B) by the kind of module, and whether their product is transposed.
FACTORS = ((".lora_A.weight", ".lora_B.weight", False), (".lora_embedding_A", ".lora_embedding_B", True))
# Keys of the config under which W + scaling x B A is not what PEFT runs -> values that change nothing.
PLAIN: Mapping[str, tuple[Any, ...]] = {
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
class Adapter:
    """A LoRA adapter: factors by the name of the base's weight, whole replacements by name, and its own record."""

    path: Path
    factors: Mapping[str, tuple[TensorRef, TensorRef, bool]]  # name -> A, B, transposed
    replaced: Mapping[str, TensorRef]
    scaling: Mapping[str, float]
    base: str | None
    sha256: str
    files: Mapping[Path, FileIdentity]  # as when their headers were read


def read_adapter(folder: Path) -> Adapter:
    """An adapter's folder. Raises `SourceError` for what is absent or damaged, `RefusedError` for what is no plain LoRA."""
    config = _config(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.is_file():
        raise SourceError(f"{folder} has no {WEIGHTS}; expected it beside {CONFIG}. Save the adapter as safetensors.")
    _, tensors, identity = read_shard(path)
    factors: dict[str, tuple[TensorRef, TensorRef, bool]] = {}
    replaced: dict[str, TensorRef] = {}
    for name, ref in tensors.items():
        stem = name.removeprefix(PREFIX)
        kind = next(((a, b, turned) for a, b, turned in FACTORS if name.endswith((a, b))), None)
        if stem == name or ".lora_magnitude" in name:
            raise RefusedError(f"{path} holds {name}, which is no part of a plain LoRA of a causal LM; merge it with PEFT.")
        if kind is None:
            replaced[stem.replace(".base_layer.", ".")] = ref  # PEFT saves an embedding that has factors beside them
        elif name.endswith(kind[0]):
            partner = tensors.get(name.removesuffix(kind[0]) + kind[1])
            if partner is None:
                raise SourceError(f"{path} has {name} without its {kind[1]}. The adapter is incomplete; copy it again.")
            factors[f"{stem.removesuffix(kind[0])}.weight"] = (ref, partner, kind[2])
    if len(tensors) != 2 * len(factors) + len(replaced) or not tensors:
        raise SourceError(
            f"{path} holds {len(tensors)} tensors that do not pair up. The adapter is incomplete; copy it again."
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    scaling = {name: _scaling(config, name.removesuffix(".weight"), a.shape[0]) for name, (a, _, _) in factors.items()}
    return Adapter(folder, factors, replaced, scaling, config.get("base_model_name_or_path"), digest, {path: identity})


def _config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if config is None:
        raise SourceError(f"--adapter {path.parent} has no {path.name}; expected the directory of a PEFT adapter.")
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise RefusedError(f"{path} is of type {found}; expected LORA. Merge it with PEFT (merge_and_unload) first.")
    if config.get("task_type") == "SEQ_CLS":
        raise RefusedError(
            f"{path} was trained for SEQ_CLS and brings a score head of its own; expected an adapter of the causal LM. "
            "Merge it with PEFT and serve that."
        )
    for key, plain in PLAIN.items():
        if config.get(key) not in plain:
            raise RefusedError(
                f"{path} has {key} {config[key]!r}, so it is no plain LoRA; expected W + scaling x B A. "
                "Merge it with PEFT (merge_and_unload) first, then convert that."
            )
    return config


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r); patterns match the end of a module's name, as PEFT's do."""
    alpha, declared = config.get("lora_alpha"), config.get("r")
    for key, pattern in (("alpha_pattern", "alpha"), ("rank_pattern", "rank")):
        for name, value in (config.get(key) or {}).items():
            if re.match(rf"(.*\.)?({name})$", module):
                alpha, declared = (value, declared) if pattern == "alpha" else (alpha, value)
                break
    if declared != rank or not isinstance(alpha, int | float):
        raise SourceError(
            f"module {module} has rank {rank} and the config {declared!r}, lora_alpha {alpha!r}. Copy it again."
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def merge_adapter(checkpoint: Checkpoint, adapter: Adapter, tied: bool) -> Checkpoint:
    """The base's tensors, under Hugging Face's names, with the adapter in them.

    Raises `SourceError` for names or shapes that the base lacks, `RefusedError` where head and embedding are one and
    the adapter changes only one of them.
    """
    tensors = dict(checkpoint.tensors)
    changed = {*adapter.factors, *adapter.replaced}
    missing = sorted(changed - tensors.keys())
    ends = {name for name in changed if name.startswith(("lm_head.", "model.embed_tokens."))}
    if tied and ends:
        raise RefusedError(
            f"the adapter {adapter.path} changes {', '.join(sorted(ends))}, and the base ties head and embedding: with the "
            "adapter they are two. Merge it with PEFT, set tie_word_embeddings to false, and convert that."
        )
    if missing:
        raise SourceError(
            f"the adapter {adapter.path} changes {len(missing)} tensors that the base lacks: {', '.join(missing[:5])}. "
            f"It was trained on {adapter.base}; name that as the source."
        )
    for name, ref in adapter.replaced.items():
        if ref.shape != tensors[name].shape:
            raise SourceError(
                f"the adapter's {name} is {list(ref.shape)}; expected {list(tensors[name].shape)}, as the base's."
            )
        tensors[name] = _as_stored(ref, name, tensors[name].dtype)
    for name, (a, b, turned) in adapter.factors.items():
        tensors[name] = _merged(tensors[name], a, b, turned, adapter.scaling[name])
    note = f"the adapter {adapter.path.name} is merged into {len(changed)} tensors, in float32 and rounded once."
    files = {**checkpoint.files, **adapter.files}
    return replace(checkpoint, tensors=tensors, files=files, notes=(*checkpoint.notes, note))


def _merged(base: TensorRef, a: TensorRef, b: TensorRef, turned: bool, scaling: float) -> TensorRef:
    import numpy as np

    left, right = (a, b) if turned else (b, a)  # [out, r] and [r, in] of the product, transposed ones the other way round
    shape = (left.shape[1], right.shape[0]) if turned else (left.shape[0], right.shape[1])
    if len(base.shape) != 2 or base.shape != shape or base.dtype not in FLOATS:
        raise SourceError(
            f"the adapter's factors of {base.name} make {list(shape)}; the base has {list(base.shape)} {base.dtype}."
        )

    def change(rows: Array, ids: Sequence[int] | slice) -> Array:
        tall, wide = left.read().astype(np.float32), right.read().astype(np.float32)
        if turned:
            tall, wide = tall.T, wide.T
        return np.asarray((rows.astype(np.float32) + (tall[ids] @ wide) * np.float32(scaling)).astype(rows.dtype))

    def read() -> Array:
        stored = np.array(base.read(), numpy_dtype(base.dtype), order="C")
        step = max(1, BLOCK // max(1, 4 * base.shape[1]))
        for start in range(0, base.shape[0], step):
            part = slice(start, start + step)
            stored[part] = change(stored[part], part)
        return stored

    def take(ids: Sequence[int], axis: int) -> Array:
        return change(base.take(ids, 0), list(ids)) if axis == 0 else read().take(list(ids), axis)

    return TensorRef(base.name, base.dtype, base.shape, read, take)


def _as_stored(ref: TensorRef, name: str, dtype: str) -> TensorRef:
    """A replacement in the base's dtype, as PEFT's merged model has it."""
    target = numpy_dtype(dtype)
    return TensorRef(
        name, dtype, ref.shape, lambda: ref.read().astype(target), lambda ids, axis: ref.take(ids, axis).astype(target)
    )
