"""What an output with a packed backbone must say of its quantisation, worked out apart from `jaxconv.quantisation`.

The rules are those of the readers, as the facts of each method were gathered: which lists vLLM and transformers look at, and
what keeps a linear layer called `score` plain.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxconv.checkpoint import Array, numpy_dtype
from jaxconv.json_files import JsonDict, JsonObject, parse_json
from jaxconv.model import Model
from jaxconv.verification.output import Output, Stored, read_object
from jaxconv.verification.source_files import SourceFiles

COMPANIONS = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
SCORE = "score"
# A stored part of a tensor of torchao: the name of the parameter stands before the part's.
TORCHAO_PART = re.compile(r"\._([a-z]+)_\w+$")
BLOCK = 128  # rows and columns of a head that share a scale


@dataclass(frozen=True, slots=True)
class Rule:
    """The lists of plain modules that readers of a method look at.

    Attributes:
        lists: Their keys; each that is there must name `score`.
        default: The key that is made where there is none; None if readers then look at stored dtypes.
        empty_counts: Whether an empty list is a list. AWQ's readers look at dtypes while it is empty.
    """

    lists: tuple[str, ...]
    default: str | None
    empty_counts: bool = True


RULES: Mapping[str, Rule] = {
    "compressed-tensors": Rule(("ignore",), "ignore"),
    "fp8": Rule(("modules_to_not_convert", "ignored_layers"), "modules_to_not_convert"),
    "modelopt": Rule(("ignore", "exclude_modules"), "ignore"),
    "torchao": Rule(("modules_to_not_convert",), "modules_to_not_convert"),
    "awq": Rule(("modules_to_not_convert",), None, empty_counts=False),
    "gptq": Rule((), None),
}


# What transformers needs beside itself to read a method in float32 on the CPU; methods that are not here it cannot, or only
# with packages that have to be built.
QUANTIZERS: Mapping[str, tuple[str, ...]] = {
    "compressed-tensors": ("compressed_tensors",),
    "fp8": ("accelerate",),
    "torchao": ("torchao",),
}


def has_quantizer(model: Model) -> bool:
    """Whether transformers as installed here reads a quantised source with code of its own, in float32.

    Args:
        model: The source.
    """
    if model.packed is None or not isinstance(model.source.weights, Path):
        return False
    quantised = model.packed.quantised
    reads = any(consumer.reads for consumer in quantised.quantisation.consumers if consumer.name == "transformers")
    needs = QUANTIZERS.get(quantised.method)
    if not reads or needs is None or "fp4" in quantised.quantisation.summary:  # NVFP4 raises in float32
        return False
    return all(importlib.util.find_spec(package) is not None for package in needs)


def how_read(model: Model, quantizer: bool) -> str:
    """A sentence on who made numbers of packed weights for the scores.

    Args:
        model: The source, which is quantised.
        quantizer: Whether transformers did, with its own quantizer.
    """
    scheme = "" if model.packed is None else model.packed.quantised.quantisation.summary
    if quantizer:
        return f"transformers read the packed weights of both sides with its own quantizer ({scheme})."
    return (
        f"the weights ({scheme}) were dequantised by jaxconv, in float32 and tensor by tensor, for both sides; a server's "
        "scores differ by the rounding of its activations."
    )


def is_left_out(model: Model, name: str) -> bool:
    """Whether an array of the source has no place in a classifier, as a quantised head's scale or a text-only output's tower.

    Args:
        model: The source.
        name: The array.
    """
    if model.packed is not None and name.startswith(model.family.head.weight.removesuffix("weight")):
        return True
    if model.whole is not None and model.whole.passes_through(name):
        return True
    return model.family.is_left_out(name, model.config)


def expected_config(config: JsonObject) -> JsonDict:
    """A source's config.json with the entry that keeps `score` plain, and nothing else changed.

    Args:
        config: The source's config.json.
    """
    for key in ("quantization_config", "compression_config"):
        if isinstance(config.get(key), dict) and config[key]:
            return {**config, key: _with_score(config[key])}
        text = config.get("text_config")
        if key == "quantization_config" and isinstance(text, dict) and isinstance(text.get(key), dict):
            return {**config, "text_config": {**text, key: _with_score(text[key])}}
    return dict(config)


def _with_score(section: JsonObject) -> JsonDict:
    """A quantization_config in which readers find `score` plain."""
    method = str(section.get("quant_method")).lower().replace("_", "-")
    method = next((name for name in RULES if method.startswith(name)), method)
    rule = RULES.get(method)
    if rule is None or not _reaches_score(method, section):
        return dict(section)
    nested = section.get("quantization")
    if method == "modelopt" and isinstance(nested, dict):
        return {**section, "quantization": _extended(nested, ("exclude_modules",), "exclude_modules", True)}
    return _extended(section, rule.lists, rule.default, rule.empty_counts)


def _extended(section: JsonObject, lists: Sequence[str], default: str | None, empty_counts: bool) -> JsonDict:
    present = [key for key in lists if isinstance(section.get(key), list) and (empty_counts or section[key])]
    if not present and default is not None:
        return {**section, default: [SCORE]}
    changed = {key: [*section[key], SCORE] for key in present if SCORE not in section[key]}
    return {**section, **changed}


def _reaches_score(method: str, section: JsonObject) -> bool:
    """Whether a method would quantise a linear layer of that name, its list left aside."""
    if method == "modelopt":
        nested = section.get("quantization")
        inner = nested if isinstance(nested, dict) else section
        return str(inner.get("quant_algo")).upper() != "MIXED_PRECISION"  # it names the modules that it quantises
    groups = section.get("config_groups")
    if method != "compressed-tensors" or not isinstance(groups, dict):
        return True
    targets = [target for group in groups.values() for target in group.get("targets") or ()]
    return any(_is_target(target) for target in targets)


def _is_target(target: str) -> bool:
    """Whether a target of compressed-tensors means `score`: a class, the name itself, or a pattern."""
    if target.startswith("re:"):
        return re.match(target[3:], SCORE) is not None
    return "." not in target


def check_companions(model: Model, output: Output) -> Iterator[str]:
    """What is wrong with the files beside config.json, a sentence each.

    Args:
        model: The source.
        output: The output.
    """
    for name in COMPANIONS:
        source, actual = read_object(model.source.assets / name), read_object(output.folder / name)
        if source is None and actual is None:
            continue
        if source is None or actual is None:
            yield f"{name} is in the {'output' if source is None else 'source'} alone."
            continue
        method = "modelopt" if name == COMPANIONS[0] else _method(model.config)
        expected = _with_score({"quant_method": method, **source})
        if actual != {key: value for key, value in expected.items() if key in source or key != "quant_method"}:
            yield f"{name} is not the source's with `score` in its list of plain modules."


def check_descriptions(model: Model, output: Output) -> Iterator[str]:
    """What is wrong with the metadata in which torchao's readers look up each tensor, a sentence each.

    vLLM leaves out, without an error, what the list of a file does not name.

    Args:
        model: The source.
        output: The output.
    """
    from safetensors import safe_open

    if model.packed is None or _method(model.config) != "torchao":
        return
    for path in sorted({stored.path for stored in output.tensors.values()}):
        with safe_open(path, "np") as file:
            metadata, stored = file.metadata() or {}, file.keys()
        listed = parse_json(metadata.get("tensor_names", "[]"), f"tensor_names of {path.name}", "Convert the source again.")
        described = {name for name in listed if name in metadata} if isinstance(listed, list) else set()
        for name in sorted({TORCHAO_PART.sub(r".\1", name) for name in stored} - described):
            yield f"the metadata of {path.name} does not list and describe {name}, so vLLM would leave it out."
        for name, kind in metadata.items():
            if "." in name and kind != model.checkpoint.metadata.get(name, '{"_type": "Tensor"}'):
                yield f"the metadata of {path.name} describes {name} as {kind:.80}; the source's is another."


def _method(config: JsonObject) -> str:
    section = config.get("quantization_config")
    return str(section.get("quant_method")) if isinstance(section, dict) else ""


def scaled_rows(source: SourceFiles, name: str, ids: Sequence[int]) -> Array | None:
    """Rows of a head in 8 bits as float32, from the file's bytes; None where the head has no scale.

    Args:
        source: The source's own arrays.
        name: The head's name, or the embedding's where they are tied.
        ids: The rows.
    """
    import numpy as np

    scales = [scale for scale in (f"{name}_scale", f"{name}_scale_inv") if scale in source.stored]
    if not scales or name not in source.stored:
        return None
    codes = _values(source.stored[name])
    scale = _values(source.stored[scales[0]])
    zeros = _values(source.stored[f"{name}_zero_point"]) if f"{name}_zero_point" in source.stored else None
    rows = codes[list(ids)]
    if zeros is not None:
        rows = rows - _spread(zeros, codes.shape, ids)
    return np.asarray(rows * _spread(scale, codes.shape, ids), np.float32)


def _values(stored: Stored) -> Array:
    """A tensor of a file as float32."""
    import numpy as np

    count = stored.nbytes // numpy_dtype(stored.dtype).itemsize
    raw = np.fromfile(stored.path, numpy_dtype(stored.dtype), count, offset=stored.offset)
    return raw.reshape(stored.shape).astype(np.float32)


def _spread(scale: Array, shape: tuple[int, ...], ids: Sequence[int]) -> Array:
    """One number, one for each row, or one for each block of 128 x 128, against the rows `ids`."""
    import numpy as np

    if scale.size == 1:
        return scale.reshape(1, 1)
    if scale.shape[0] == shape[0]:
        return scale[list(ids)].reshape(len(ids), 1)
    columns = np.arange(shape[1]) // BLOCK
    return scale[[i // BLOCK for i in ids]][:, columns]
