"""Faults put into the conversion's own code: each is in force while jaxconv converts and while it verifies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import jaxconv.bundle
import jaxconv.bundle.config
import jaxconv.conversion
import jaxconv.layouts._rules as rules
import jaxconv.layouts.tunix
import jaxconv.merge
import jaxconv.model
import jaxconv.models.decoder
import jaxconv.models.layer
import jaxconv.readers.safetensors
import jaxconv.text.prompt_fit
import jaxconv.writer.shards
from jaxconv.checkpoint import TensorRef
from jaxconv.text.pad_token import PadToken

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Sabotage:
    """One fault.

    Attributes:
        source: The kind of source that shows it, a key of `SOURCES` in the test, or a fixture of tests/foreign.
        patch: Puts the fault in.
        finding: What `verify` says, a regular expression.
        convert: Further options of `convert`.
        claims: Further options of `verify`.
        needs_transformers: Whether the fault passes where transformers is not installed.
    """

    source: str
    patch: Patch
    finding: str
    convert: Mapping[str, Any] = field(default_factory=dict)
    claims: Mapping[str, Any] = field(default_factory=dict)
    needs_transformers: bool = False


def unchanged(*names: str) -> Patch:
    """Changes of values in layouts become the identity."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        same = rules.ValueChange(lambda x, axes, sizes: x, lambda x, axes, sizes: x)
        monkeypatch.setattr(rules, "VALUES", {**rules.VALUES, **dict.fromkeys(names, same)})

    return patch


def attribute(owner: Any, name: str, make: Callable[[Any], Any]) -> Patch:
    """An attribute is replaced by what `make` makes of it."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, make(getattr(owner, name)))


def exchange_key_and_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of the einsum that holds keys and values are taken in the wrong order."""
    rows = dict(jaxconv.layouts.tunix.LAYERS["gemma"])
    axes, names, hf_axes = rows["attn.kv_einsum.w"]
    rows["attn.kv_einsum.w"] = (axes, names[::-1], hf_axes)
    monkeypatch.setitem(jaxconv.layouts.tunix.LAYERS, "gemma", rows)


def not_transposed(transposed: Any) -> Any:
    """Square kernels stay as they lie."""
    return lambda ref, name: ref.renamed(name) if ref.shape[0] == ref.shape[1] else transposed(ref, name)


def layers_reversed(parts: Any) -> Any:
    """The layers of a stacked array are numbered from the end."""

    def made(*arguments: Any) -> Any:
        entries = list(parts(*arguments))
        return zip([name for name, _ in entries], [index for _, index in reversed(entries)], strict=True)

    return made


def without_alpha(merged: Any) -> Any:
    """The product of the factors is added as it is."""
    return lambda base, factors: merged(base, dataclasses.replace(factors, scaling=1.0))


def left_out(merged: Any) -> Any:
    """The values' projections keep the base's weights."""
    return lambda base, factors: base if "v_proj" in base.name else merged(base, factors)


def twice_rounded(merged: Any) -> Any:
    """The change is rounded to float16 on the way."""

    def made(base: TensorRef, factors: Any) -> TensorRef:
        ref = merged(base, factors)
        return dataclasses.replace(ref, read=lambda: ref.read().astype(np.float16).astype(np.float32))

    return made


def off_by_one_row(file_tensor: Any) -> Any:
    """Single rows are read one too far."""

    def made(name: str, dtype: str, shape: tuple[int, ...], extent: Any) -> TensorRef:
        ref = file_tensor(name, dtype, shape, extent)
        return dataclasses.replace(ref, take=lambda ids, axis: ref.take([i + 1 for i in ids], axis))

    return made


def two_bytes_late(file_tensor: Any) -> Any:
    """The norm is read two bytes too late."""

    def made(name: str, dtype: str, shape: tuple[int, ...], extent: Any) -> TensorRef:
        late = dataclasses.replace(extent, offset=extent.offset - 2)
        return file_tensor(name, dtype, shape, late if name == "model.norm.weight" else extent)

    return made


def negated(compute_head: Any) -> Any:
    """False minus true."""

    def made(*arguments: Any) -> Any:
        head = compute_head(*arguments)
        return dataclasses.replace(head, weight=-head.weight)

    return made


def without_scale(read_model: Any) -> Any:
    """The factor that the family applies to logits is forgotten."""

    def made(*arguments: Any, **options: Any) -> Any:
        model = read_model(*arguments, **options)
        return dataclasses.replace(model, transform=dataclasses.replace(model.transform, scale=1.0))

    return made


def in_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Any], Any]:
    """config.json of the output, changed."""

    def make(output_config: Any) -> Any:
        def made(plan: Any) -> dict[str, Any]:
            config = dict(output_config(plan))
            change(config)
            return config

        return made

    return make


def in_file(name: str, change: Callable[[bytes], bytes | None]) -> Patch:
    """A file of the tokenizer, changed; left out where `change` gives None."""

    def make(files: Any) -> Any:
        def made(plan: Any) -> dict[str, bytes]:
            written = dict(files(plan))
            content = change(written.pop(name))
            return written if content is None else {name: content, **written}

        return made

    return attribute(jaxconv.bundle, "tokenizer_files", make)


def in_plan(change: Callable[[Any], Any]) -> Patch:
    """The plan of a conversion, changed."""

    def make(make_plan: Any) -> Any:
        return lambda *arguments: change(make_plan(*arguments))

    return attribute(jaxconv.conversion, "make_plan", make)


def exchanged(preamble: str) -> str:
    """The preamble of a template with the document as the query and the query as the document."""
    swapped = preamble.replace("set query = ns.query", "set query = ns.other").replace(
        "set document = ns.document", "set document = ns.query"
    )
    return swapped.replace("ns.other", "ns.document")


def pad_with_end(vocabulary: Any, last_ids: Any, rows: int) -> Any:
    """The end-of-sequence token is chosen for padding, whatever prompts end in."""
    return PadToken("</s>", vocabulary.id("</s>"), added=True)


def truncated(cast: Any) -> Any:
    """A cast to bfloat16 cuts bits off instead of rounding."""

    def made(ref: TensorRef, dtype: str | None) -> TensorRef:
        result = cast(ref, dtype)
        if dtype != "BF16" or ref.dtype != "F32":
            return result

        def read() -> Any:
            import ml_dtypes

            return (ref.read().view(np.uint32) >> 16).astype(np.uint16).view(ml_dtypes.bfloat16)

        return dataclasses.replace(result, read=read)

    return made


def decoder(name: str, function: Callable[..., Any]) -> Patch:
    """A function of the JAX decoder, replaced."""
    modules = [module for module in (jaxconv.models.decoder, jaxconv.models.layer) if hasattr(module, name)]
    return lambda monkeypatch: [monkeypatch.setattr(module, name, function) for module in modules]


def norm_without_weight(x: Any, weight: Any, config: Any) -> Any:
    """A norm that forgets its weight."""
    import jax
    import jax.numpy as jnp

    return (x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + config.eps)).astype(x.dtype)
