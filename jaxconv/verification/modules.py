"""The modules that sentence-transformers loads an output by, where transformers has no classifier of its family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jaxconv.json_files import JsonObject, read_json
from jaxconv.verification.output import Output, Stored, read_object, stored_tensors

MODULES, DENSE, POOLING = "modules.json", "2_Dense", "1_Pooling"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
# The first name hides the pooling from vLLM, which would leave the activation out; the second is sentence-transformers' own.
POOLINGS = {
    True: "sentence_transformers.sentence_transformer.modules.Pooling",
    False: "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
}
TYPES = ("sentence_transformers.base.modules.transformer.Transformer", "sentence_transformers.base.modules.dense.Dense")
IDENTITY = "torch.nn.modules.linear.Identity"


def check_modules(output: Output, score: str, *, has_class: bool) -> Iterator[str]:
    """What is wrong with the modules of an output, a sentence each.

    Args:
        output: The output.
        score: The name of its score layer.
        has_class: Whether transformers has a classifier of the family, so that CrossEncoder needs no modules.
    """
    recorded = (output.record or {}).get("consumers")
    consumers = recorded if isinstance(recorded, list) else ["vllm"]
    if has_class or "sentence-transformers" not in consumers:
        if (output.folder / DENSE).exists():
            yield f"there is a {DENSE}, and jaxconv.json does not record sentence-transformers among the consumers."
        return
    modules = read_json(output.folder / MODULES)
    types = [entry.get("type") for entry in modules if isinstance(entry, dict)] if isinstance(modules, list) else None
    expected = [TYPES[0], POOLINGS["vllm" in consumers], TYPES[1]]
    if types != expected:
        yield f"{MODULES} has the modules {types}; expected {expected}."
    yield from _check_row(output, score)
    weight = output.tensors.get(f"{score}.weight")
    if weight is not None:
        yield from _check_settings(output, weight, has_bias=f"{score}.bias" in output.tensors)


def _check_row(output: Output, score: str) -> Iterator[str]:
    """The linear layer against the score layer, bit for bit."""
    path = output.folder / DENSE / WEIGHTS
    if not path.is_file():
        yield f"there is no {DENSE}/{WEIGHTS}, which holds the row for CrossEncoder."
        return
    unreadable: list[str] = []
    copies = stored_tensors(path, unreadable)
    yield from (f"{DENSE}/{finding}" for finding in unreadable)
    row = {kind: output.tensors[name] for kind in ("weight", "bias") if (name := f"{score}.{kind}") in output.tensors}
    if not unreadable and copies.keys() != {f"linear.{kind}" for kind in row}:
        yield f"{DENSE}/{WEIGHTS} has {sorted(copies)}; expected {sorted(f'linear.{kind}' for kind in row)}."
    for kind, stored in row.items():
        copy = copies.get(f"linear.{kind}")
        if copy is not None and _bits(copy) != _bits(stored):
            yield f"linear.{kind} of {DENSE} differs from {score}.{kind}: CrossEncoder would give other scores than vLLM."


def _bits(stored: Stored) -> tuple[str, tuple[int, ...], bytes]:
    with stored.path.open("rb") as file:
        file.seek(stored.offset)
        return stored.dtype, stored.shape, file.read(stored.nbytes)


def _check_settings(output: Output, weight: Stored, *, has_bias: bool) -> Iterator[str]:
    labels, width = weight.shape
    expected: Mapping[str, JsonObject] = {
        POOLING: {"embedding_dimension": width, "pooling_mode": "lasttoken"},
        DENSE: {
            "in_features": width, "out_features": labels, "bias": has_bias, "activation_function": IDENTITY,
            "module_input_name": "sentence_embedding", "module_output_name": "scores",
        },
    }  # fmt: skip
    for folder, settings in expected.items():
        stored = read_object(output.folder / folder / CONFIG)
        if stored != settings:
            yield f"{folder}/{CONFIG} is {stored}; expected {settings}."
