"""The conversions that are recorded, as a table: which source, which options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.golden.sources import sources

TOKENS: Mapping[str, Any] = {"classifier_from_tokens": ["no", "yes"]}
FOREIGN_TOKENS: Mapping[str, Any] = {"classifier_from_tokens": ["t5", "t7"]}
ONE: Mapping[str, Any] = {"classifier_from_tokens": ["Yes"], "method": "no_post_processing"}
THREE: Mapping[str, Any] = {"classifier_from_tokens": ["no", "yes", "No"], "method": "no_post_processing"}
PROMPT = "Query: {{ query }}\nDocument: {{ document }}\nRelevant:"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMOLLM2 = "smollm2"
SPACED = "tokenizer/prefix-space"


@dataclass(frozen=True, eq=False)
class Case:
    """One conversion.

    `run` is how: jaxconv.convert, `python -m jaxconv`, or jaxconv.convert_params of the source's tensors. `source`,
    `base` and `adapter` are names of `sources.json`; with `fixture` the weights are those of a foreign library. With
    `hub_id` the source, or the base where there is one, lies in the hub's cache under that id. `template` is the text of
    the file. On the command line `options` are flags.
    """

    name: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    run: Literal["convert", "command", "convert_params"] = "convert"
    flags: tuple[str, ...] = ()
    fixture: str | None = None
    adapter: str | None = None
    hub_id: str | None = None
    template: str | None = None


def cases() -> tuple[Case, ...]:
    """All cases but those of the real model."""
    groups = (
        _families, _methods, _sharded, _presets, _options, _templates, _sources, _adapters, _backends, _live, _commands,
        _foreign,
    )  # fmt: skip
    table = tuple(case for group in groups for case in group())
    assert len({case.name for case in table}) == len(table)
    return table


def smollm2_cases() -> tuple[Case, ...]:
    """The demo's conversion of a real model, copied and linked. Its prompt is `examples/prompt.jinja`."""
    flags = ("--backend", "jax", "--classifier-from-tokens", '["ĠNo", "ĠYes"]', "--template", "examples/prompt.jinja")
    return tuple(
        Case(f"{SMOLLM2}/{mode}", SMOLLM2, run="command", flags=(*flags, "--copy-mode", mode)) for mode in ("copy", "link")
    )


def _named(group: str) -> list[str]:
    return sorted(name for name in sources() if name.startswith(f"{group}/"))


def _families() -> Iterator[Case]:
    for source in (*_named("family"), *_named("biases")):
        yield Case(source, source, TOKENS)


def _methods() -> Iterator[Case]:
    """Every transform of logits (a scale, a divisor, a bias, a cap) by each method."""
    for family in ("qwen3-tied", "llama-untied", "granite-untied", "cohere-tied", "phi-untied", "gemma3_text-tied"):
        yield Case(f"method/{family}-one-token", f"family/{family}", ONE)
        yield Case(f"method/{family}-three-tokens", f"family/{family}", THREE)
    two = {"method": "no_post_processing", **TOKENS}
    yield Case("method/two-labels", "family/qwen3-tied", two)
    yield Case("method/two-labels-identity", "family/qwen3-tied", {**two, "activation": "identity"})
    yield Case("method/ids", "family/qwen3-tied", {"token_ids": [259, 260]})
    yield Case("method/pieces-with-a-space", "family/qwen3-tied", {"classifier_from_tokens": ["ĠNo", "ĠYes"]})
    approximate = {"allow_approximate": True}
    yield Case("method/softcap", "softcap/gemma2", {**TOKENS, **approximate})
    yield Case("method/softcap-one-token", "softcap/gemma2", {**ONE, **approximate})


def _sharded() -> Iterator[Case]:
    for source in _named("shards"):
        for mode in ("copy", "link"):
            yield Case(f"{source}-{mode}", source, {**TOKENS, "copy_mode": mode})
    yield Case("shards/llama-reflink", "shards/llama", {**TOKENS, "copy_mode": "reflink"})
    yield Case("link/tied", "family/qwen3-tied", {**TOKENS, "copy_mode": "link"})
    yield Case("link/untied", "family/llama-untied", {**TOKENS, "copy_mode": "link"})
    yield Case("link/tied-and-stored", "container/tied-and-stored", {**TOKENS, "copy_mode": "link"})


def _presets() -> Iterator[Case]:
    calibrated = ("mxbai-rerank-base-v2", "mxbai-rerank-large-v2", "zerank-1", "zerank-1-small", "zerank-2")
    table = {
        "bge-reranker-v2-gemma": "family/gemma-tied",
        "ctxl-rerank-v2-1b": "family/qwen3-tied",
        "ctxl-rerank-v2-2b": "family/qwen3-tied",
        "ctxl-rerank-v2-6b": "family/mistral-untied",
        "mxbai-rerank-base-v2": "preset/qwen2",
        "mxbai-rerank-large-v2": "preset/qwen2",
        "prism-qwen3.5-reranker": "family/qwen3_5_text-tied",
        "qwen3-reranker": "preset/qwen3",
        "zerank-1": "preset/qwen3",
        "zerank-1-small": "preset/qwen3",
        "zerank-2": "preset/qwen3",
    }
    for preset, source in table.items():
        yield Case(f"preset/{preset}", source, {"preset": preset})
        if preset in calibrated:
            yield Case(f"preset/{preset}-calibrated", source, {"preset": preset, "calibrate": True})
    yield Case("preset/other-template", "preset/qwen3", {"preset": "qwen3-reranker"}, template=PROMPT + "\n")
    mine = {"preset": "mxbai-rerank-base-v2", "activation": "sigmoid", "calibrate": True, "scale": 0.5, "bias": 1.0}
    yield Case("preset/calibrated-twice", "preset/qwen2", mine)


def _options() -> Iterator[Case]:
    for dtype in ("float32", "bfloat16", "float16"):
        yield Case(f"dtype/{dtype}", "family/qwen3-tied", {**TOKENS, "dtype": dtype})
        yield Case(f"dtype/{dtype}-shards", "shards/llama", {**TOKENS, "dtype": dtype, "copy_mode": "link"})
    yield Case("dtype/from-float32", "container/float32", {**TOKENS, "dtype": "bfloat16"})
    table: dict[str, dict[str, Any]] = {
        "identity": {"activation": "identity"},
        "scale": {"scale": 1 / 3},
        "negative-scale": {"scale": -2.0},
        "bias": {"bias": -4.5},
        "scale-and-bias": {"scale": 0.5, "bias": 1 / 3, "activation": "identity"},
        "sep-token": {"use_sep_token": True},
        "hash": {"hash": True},
    }
    for name, options in table.items():
        for source in ("family/qwen3-tied", "family/phi-untied"):
            yield Case(f"option/{name}-{source.split('/')[1]}", source, {**TOKENS, **options})
    yield Case("option/scale-three-tokens", "family/phi-untied", {**THREE, "scale": 0.7, "bias": 2.0})
    yield Case("option/hash-shards", "shards/llama", {**TOKENS, "hash": True, "copy_mode": "link"})
    small = {**TOKENS, "max_shard_size": "60KB"}
    yield Case("option/small-shards", "family/qwen3-tied", small)
    yield Case("option/small-shards-cast", "family/llama-untied", {**small, "dtype": "float32", "hash": True})


def _templates() -> Iterator[Case]:
    """Prompts with and without BOS, a final newline, white space in front, non-ASCII text, and one over messages."""
    table = {
        "plain": PROMPT + "\n",
        "final-newlines": PROMPT + "\n\n\n",
        "white-space-in-front": "  \n" + PROMPT,
        "instruction": "{% if instruction %}{{ instruction }}\n{% endif %}" + PROMPT,
        "not-ascii": "Frage: {{ query }} – “{{ document }}” ✓:\n",
        "messages": "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}=>",
    }
    for name, text in table.items():
        for source in ("family/qwen3-tied", "family/llama-untied", SPACED):
            tokens = {"token_ids": [259, 260]} if source == SPACED else TOKENS
            yield Case(f"template/{name}-{source.split('/')[1]}", source, tokens, template=text)
    for ending in ("</s>", "<pad>"):
        yield Case(f"template/ends-in-{ending.strip('</>')}", "tokenizer/no-pad", TOKENS, template=PROMPT + ending)


def _sources() -> Iterator[Case]:
    for source in (*_named("config"), *_named("tokenizer"), *_named("container")):
        if source != SPACED:  # a prompt without a word in front is refused there
            yield Case(source, source, {} if "logit-score" in source else TOKENS)
    yield Case("config/logit-score-not-used", "config/logit-score-one", TOKENS)
    for name in ("mlx", "no-metadata"):
        yield Case(f"container/{name}-link", f"container/{name}", {**TOKENS, "copy_mode": "link"})


def _adapters() -> Iterator[Case]:
    for adapter in _named("adapter"):
        yield Case(adapter, "family/llama-untied", TOKENS, adapter=adapter)
    plain = "adapter/plain"
    yield Case("adapter/tied", "family/llama-tied", TOKENS, adapter=plain)
    yield Case("adapter/shards", "shards/llama", {**TOKENS, "copy_mode": "link"}, adapter=plain)
    yield Case("adapter/float32", "family/llama-untied", {**TOKENS, "dtype": "float32"}, adapter=plain)
    flags = ("--classifier-from-tokens", '["no","yes"]', "--backend", "numpy")
    yield Case("adapter/hub-base", "family/llama-tied", run="command", flags=flags, adapter=plain, hub_id="another/base")


def _backends() -> Iterator[Case]:
    for backend in ("jax", "torch"):
        for name, options in (("two", TOKENS), ("three", THREE)):
            scaled = {**options, "scale": 1 / 3, "bias": 0.1, "backend": backend}
            yield Case(f"backend/{backend}-{name}-tokens", "family/llama-untied", scaled)


def _live() -> Iterator[Case]:
    for family in ("qwen3-tied", "llama-untied"):
        yield Case(f"live/{family}", f"family/{family}", TOKENS, run="convert_params")
    shards = {**TOKENS, "dtype": "float32", "max_shard_size": "60KB", "hash": True}
    yield Case("live/shards", "family/qwen3-tied", shards, run="convert_params")


def _commands() -> Iterator[Case]:
    vllm = ("--classifier_from_tokens", '["no","yes"]', "--method", "from_2_way_softmax", "--use-pad-token")
    numpy = ("--backend", "numpy")
    yield Case("command/flags-of-vllm", "family/qwen3-tied", run="command", flags=(*vllm, *numpy))
    yield Case("command/hub-preset", "preset/qwen3", run="command", flags=numpy, hub_id="Qwen/Qwen3-Reranker-0.6B")
    revision = ("--revision", COMMIT, "--preset", "zerank-2", "--calibrate", *numpy)
    yield Case("command/hub-revision", "preset/qwen3", run="command", flags=revision, hub_id="someone/fine-tune")
    tokens = ("--classifier-from-tokens", '["t5","t7"]', *numpy)
    fixture = "nnx/llama_state"
    yield Case("command/hub-base", f"foreign/{fixture}", run="command", flags=tokens, fixture=fixture, hub_id="someone/base")


def _foreign() -> Iterator[Case]:
    """Every fixture that converts, and those whose step or layout a user can choose."""
    special = "foreign/no-rope-type"
    for source in _named("foreign"):
        if source != special:
            yield Case(source, source, FOREIGN_TOKENS, fixture=source.removeprefix("foreign/"))
    manager, paired = "nnx/llama_manager", "maxtext/llama31_scanned"
    yield Case("foreign/an-older-step", f"foreign/{manager}", {**FOREIGN_TOKENS, "step": 2}, fixture=manager)
    for layout in ("maxtext", "maxtext-llama3.1"):
        yield Case(f"foreign/layout-{layout}", special, {**FOREIGN_TOKENS, "layout": layout}, fixture=paired)
    cast = {**FOREIGN_TOKENS, "dtype": "bfloat16", "max_shard_size": "10KB", "hash": True}
    yield Case("foreign/cast-to-shards", "foreign/nnx/llama_state", cast, fixture="nnx/llama_state")
