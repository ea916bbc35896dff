"""A quantised checkpoint as all stages read it: checked, and plain where arithmetic is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxconv.checkpoint import NUMPY_NAMES, Array, Checkpoint, Packed, TensorRef
from jaxconv.errors import RefusedError
from jaxconv.families import Family, disagreement, family_for, text_config
from jaxconv.json_files import JsonDict, JsonObject, read_optional_object
from jaxconv.quantisation import Quantised, Source, check_tensors, companion_names, find_stored_head, open_quantisation
from jaxconv.quantisation.check import PACKED, PLAIN
from jaxconv.quantisation.layouts import CodesTimesScales
from jaxconv.quantisation.storage import Storage

# Places of a config.json that speak of quantisation, whichever reader looks there.
KEYS = ("quantization_config", "compression_config", "quantization")


@dataclass(frozen=True, slots=True)
class PackedBackbone:
    """The backbone of a quantised checkpoint, its tensors checked.

    Attributes:
        quantised: How the checkpoint is quantised, and the files that keep `score` plain.
        storages: How each quantised parameter is stored, by the parameter's plain name.
        tensors: The names of the backbone's tensors, in file order.
    """

    quantised: Quantised
    storages: Mapping[str, Storage]
    tensors: tuple[str, ...]


def read_companions(assets: Path) -> dict[str, JsonObject]:
    """The files beside config.json that speak of quantisation, by name.

    Args:
        assets: The directory with config.json.

    Raises:
        SourceError: One of them is not a JSON object.
    """
    documents = {name: read_optional_object(assets / name) for name in sorted(companion_names())}
    return {name: document for name, document in documents.items() if document is not None}


def quantisation_of(config: JsonObject, checkpoint: Checkpoint, assets: Path) -> Quantised | None:
    """How a checkpoint is quantised; None where neither its config.json nor a companion speaks of it.

    Args:
        config: The config.json.
        checkpoint: Its tensors, under the names that they have in the files.
        assets: The directory with config.json.

    Raises:
        RefusedError: The method cannot be served, or every tensor is plain.
        SourceError: The configuration makes no sense.
    """
    companions = read_companions(assets)
    if not any(_is_packed(name, ref) for name, ref in checkpoint.tensors.items()):
        _refuse_plain(config, companions)
        return None
    return open_quantisation(config, Source(checkpoint.tensors, checkpoint.metadata, companions))


def _refuse_plain(config: JsonObject, companions: Mapping[str, JsonObject]) -> None:
    """Raises `RefusedError` where something says quantised of tensors that are all plain."""
    text, absent = text_config(config), (None, dict[str, object]())
    keys = [key for key in KEYS if config.get(key) not in absent] or [key for key in KEYS[:1] if text.get(key) not in absent]
    if keys or companions:
        clue = f"config.json has {keys[0]}" if keys else f"{next(iter(companions))} lies beside config.json"
        remedy = f"remove {keys[0]} from config.json" if keys else "remove that file"
        raise RefusedError(
            f"{clue}, so readers expect a quantised checkpoint, and every tensor is plain. If the weights were dequantised "
            f"or merged, {remedy}; else get the quantised weights."
        )


def _is_packed(name: str, ref: TensorRef) -> bool:
    return PACKED.fullmatch(name.rpartition(".")[2]) is not None or (
        ref.dtype not in PLAIN and name.endswith((".weight", ".biases"))
    )


def check_packed(checkpoint: Checkpoint, quantised: Quantised, family: Family, config: JsonObject) -> PackedBackbone:
    """The backbone, once its tensors are those that config.json promises.

    Args:
        checkpoint: The source's tensors.
        quantised: How they are quantised.
        family: The family, in the spelling of the tensors.
        config: The config.json.

    Raises:
        SourceError: Tensors are missing, unexpected, of another form, or not as the configuration says.
        RefusedError: No tensor is quantised.
    """
    head = f"{family.head.weight.removesuffix('weight')}"
    tensors = checkpoint.tensors
    allowed = {
        name for name in tensors if name.startswith(head) or family.passes_through(name) or family.is_left_out(name, config)
    }
    layout = check_tensors(quantised.quantisation, family.parameters(config), tensors, allowed)
    findings = {
        "missing": layout.missing,
        "unexpected": layout.unexpected,
        "of another dtype or shape": layout.misshapen,
        "not as quantization_config says": layout.contradictions,
    }
    if any(findings.values()):
        raise disagreement(checkpoint, family, config, findings)
    backbone = set(layout.backbone)
    names = tuple(name for name in tensors if name in backbone or family.passes_through(name))
    return PackedBackbone(quantised, layout.storages, names)


def with_plain_head(checkpoint: Checkpoint, family: Family) -> tuple[Checkpoint, str]:
    """The checkpoint with a head whose rows are numbers, and a sentence on how they come about; empty for a plain head.

    Args:
        checkpoint: The source's tensors.
        family: The family, in the spelling of the tensors.

    Raises:
        RefusedError: The head is packed, so that no row can be read.
        SourceError: Its scale is missing or of another shape.
    """
    tensors = dict(checkpoint.tensors)
    for weight in (family.head.weight, family.head.embedding):
        head = find_stored_head(tensors, weight.removesuffix(".weight"))
        if head is None:
            continue
        if head.scale is not None:
            tensors[weight] = _computed(weight, head.weight.shape, head.rows)
        return replace(checkpoint, tensors=tensors), head.record
    return checkpoint, ""


def _computed(name: str, shape: tuple[int, ...], rows: Callable[[Sequence[int]], Array]) -> TensorRef:
    """A float32 tensor whose rows are computed when they are read."""

    def take(ids: Sequence[int], axis: int) -> Array:
        return rows(ids) if axis == 0 else rows(range(shape[0])).take(list(ids), axis)

    return TensorRef(name, "F32", shape, lambda: rows(range(shape[0])), take)


def dequantised(checkpoint: Checkpoint, storages: Mapping[str, Storage]) -> Checkpoint:
    """The checkpoint under the names of a plain one; a quantised weight is computed in float32 whenever it is read.

    Args:
        checkpoint: The tensors as they are stored.
        storages: How each quantised parameter is stored.
    """
    stored = checkpoint.tensors
    parts = {name for storage in storages.values() for name in storage.names()}
    tensors = {name: ref for name, ref in stored.items() if name not in parts}
    tensors |= {name: _weight(name, storage, stored) for name, storage in storages.items()}
    return replace(checkpoint, tensors=tensors, shards=())


def _weight(name: str, storage: Storage, stored: Mapping[str, TensorRef]) -> TensorRef:
    def read() -> Array:
        return storage.dequantise(stored)

    return TensorRef(
        name, "F32", storage.shape, read, lambda ids, axis: read().take(list(ids), axis), packed=_packed(storage, stored)
    )


def _packed(storage: Storage, stored: Mapping[str, TensorRef]) -> Packed | None:
    """The weight as codes and scales; None where it is stored otherwise, or wrongly, which reading it says."""
    decode, rows = storage.decode, storage.shape[0]
    if not isinstance(decode, CodesTimesScales) or storage.problems(stored):
        return None
    names = [f"{storage.module}.{suffix}" for suffix in (decode.scales, decode.zeros) if suffix is not None]
    refs = [stored[name] for name in names if name in stored]
    if not all(decode.whole_groups(ref.shape) for ref in refs):
        return None
    scales, *zeros = (lambda ref=ref: decode.by_rows(ref.read(), rows) for ref in refs)
    return Packed(stored[f"{storage.module}.{decode.codes}"], scales, zeros[0] if zeros else None)


def plain_classifier(checkpoint: Checkpoint, config: JsonObject, directory: Path) -> tuple[Checkpoint, JsonDict]:
    """A classifier's tensors and config as those of a plain model; unchanged where it is not quantised.

    Args:
        checkpoint: The tensors of a converted directory.
        config: Its config.json.
        directory: The directory.

    Raises:
        JaxconvError: The directory is quantised in a way that cannot be read, or is damaged.
    """
    quantised = quantisation_of(config, checkpoint, directory)
    if quantised is None:
        return checkpoint, dict(config)
    family = family_for({**config, "architectures": None}).spelled_as(checkpoint.tensors)
    score = {name: ref for name, ref in checkpoint.tensors.items() if name.startswith(f"{family.head.score}.")}
    backbone = {name: ref for name, ref in checkpoint.tensors.items() if name not in score}
    packed = check_packed(replace(checkpoint, tensors=backbone), quantised, family, config)
    return dequantised(checkpoint, packed.storages), without_quantisation(config)


def cannot_cast(packed: PackedBackbone) -> RefusedError:
    """The refusal of a dtype for a packed backbone.

    Args:
        packed: The backbone.
    """
    return RefusedError(
        f"--dtype cannot cast a packed backbone ({packed.quantised.quantisation.summary}). Leave it out; "
        "vllm serve --dtype chooses the dtype of the activations."
    )


def activation_dtype(config: JsonObject, plain: str) -> str:
    """The dtype that a quantised model computes in: what its config.json says, which stored dtypes do not show.

    Args:
        config: The config.json.
        plain: The safetensors dtype of a plain tensor of the model, for a config that says nothing.
    """
    for part in (config, text_config(config)):
        for key in ("dtype", "torch_dtype"):
            name = str(part.get(key)).removeprefix("torch.")
            if name in ("float32", "bfloat16", "float16"):
                return name
    return NUMPY_NAMES[plain] if plain in ("F32", "BF16", "F16") else "bfloat16"


def without_quantisation(config: JsonObject) -> JsonDict:
    """A config.json without what it says of quantisation, for frameworks that get plain tensors.

    Args:
        config: The config.json.
    """
    plain = {key: value for key, value in config.items() if key not in KEYS}
    if isinstance(plain.get("text_config"), dict):
        plain["text_config"] = {key: value for key, value in plain["text_config"].items() if key not in KEYS}
    return plain
