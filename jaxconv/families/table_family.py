"""A family that a row of the table describes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from jaxconv.errors import RefusedError, SourceError
from jaxconv.families.family import HeadNames, LogitTransform, text_config
from jaxconv.families.kinds import parameter
from jaxconv.families.parameter import Parameter
from jaxconv.families.refusals import LOGIT_KEYS
from jaxconv.families.row import Composite, Row, Shapes, Spelling
from jaxconv.families.table import FAMILIES
from jaxconv.families.values import MAX_EXPERTS, MAX_LAYERS, flag, integer, number
from jaxconv.json_files import JsonObject

EMBEDDING = "embed_tokens.weight"
ROTARY = re.compile(r"(?:layers\.(\d{1,6})\.self_attn\.)?rotary_emb\.inv_freq")
_KEYS = {
    "V": "vocab_size",
    "F": "intermediate_size",
    "M": "moe_intermediate_size",
    "S": "shared_expert_intermediate_size",
}


def with_defaults(config: JsonObject) -> JsonObject:
    """A decoder's config with what its family takes absent keys for. An explicit null stays null.

    Args:
        config: The language model's part of a config.json.
    """
    row = FAMILIES.get(str(config.get("model_type")))
    return config if row is None else {**row.defaults, **config}


def num_experts(config: JsonObject) -> int:
    """The number of experts, under either of its two names.

    Args:
        config: The language model's part of a config.json, with its defaults.

    Raises:
        SourceError: It is not a whole number from 1 to 4096.
    """
    return integer(config, "num_local_experts" if "num_local_experts" in config else "num_experts", limit=MAX_EXPERTS)


@dataclass(frozen=True, slots=True)
class TableFamily:
    """A row's answers to the questions of `Family`."""

    model_type: str
    row: Row
    spelling: Spelling
    by_proof: bool = False
    composite: Composite | None = None

    @property
    def architecture(self) -> str:
        """The class of the causal LM."""
        return self.row.architecture

    @property
    def target_architecture(self) -> str:
        """The class of the classifier, as vLLM names it."""
        return self.row.target or self.row.architecture.replace("ForCausalLM", "ForSequenceClassification")

    @property
    def architectures(self) -> tuple[str, ...]:
        """The `architectures` of the output."""
        return (self.target_architecture,) if self.composite is None else self.composite.architectures

    @property
    def towers(self) -> tuple[str, ...]:
        """What the names of tensors begin with that are copied unread."""
        return self.spelling.towers

    @property
    def transformers_seq_cls(self) -> bool:
        """Whether transformers has a sequence classification class that loads the output."""
        return self.row.transformers_seq_cls

    @property
    def head(self) -> HeadNames:
        """The names of the LM head and of the score layer."""
        spelling = self.spelling
        bias = f"{spelling.head}.bias" if self.row.head_bias else None
        return HeadNames(f"{spelling.head}.weight", bias, spelling.prefix + EMBEDDING, self.row.tied, spelling.score)

    def spelled_as(self, names: Collection[str]) -> TableFamily:
        """The same family in the spelling whose embedding is among `names`, those of a file, with its form of experts."""
        for spelling in self.row.spellings:
            if spelling.prefix + EMBEDDING in names:
                return replace(self, spelling=spelling, row=_with_experts_of(self.row, spelling.prefix, names))
        return self

    def transform(self, config: JsonObject) -> LogitTransform:
        """What follows `hidden @ lm_head.T` in the causal LM of `config`.

        Raises:
            SourceError: A value is not a positive number.
            RefusedError: A key scales logits in other families but not in this one, so that loaders disagree.
        """
        text, row = text_config(config), self.row
        for key, neutral in LOGIT_KEYS.items():
            if key not in (row.multiply, row.divide, row.softcap) and text.get(key) not in neutral:
                raise RefusedError(
                    f"config.json has {key} {text[key]!r}, which {self.architecture} of transformers does not know "
                    f"and other loaders may apply. Remove the key if the model was trained without it."
                )
        values = {**row.defaults, **text}
        scale = 1.0
        if row.multiply:
            scale = number(values, row.multiply)
        if row.divide:
            scale = 1.0 / number(values, row.divide)
        capped = row.softcap is not None and values.get(row.softcap) is not None
        return LogitTransform(scale, row.head_bias, number(values, row.softcap) if capped and row.softcap else None)

    def parameters(self, config: JsonObject) -> Mapping[str, Parameter]:
        """Every backbone tensor of a model with `config`, by its name in the file, without the head.

        Raises:
            SourceError: A size is missing or not a positive whole number.
        """
        prefix = self.spelling.prefix
        embeddings = frozenset({prefix + EMBEDDING})
        return {
            prefix + name: parameter(prefix + name, shape, embeddings)
            for name, shape in _shapes({**self.row.defaults, **text_config(config)}, self.row)
        }

    def is_left_out(self, name: str, config: JsonObject) -> bool:
        """Whether a tensor is the draft head's, or a table of rotations that old files carry.

        Args:
            name: The tensor's name in the file.
            config: The config.json.
        """
        if self.row.draft is not None and name.startswith(self.row.draft):
            return True
        rest = name.removeprefix(self.spelling.prefix) if name.startswith(self.spelling.prefix) else ""
        match = ROTARY.fullmatch(rest)
        layers = integer(text_config(config), "num_hidden_layers", limit=MAX_LAYERS)
        return match is not None and (match[1] is None or int(match[1]) < layers)

    def holds_integers(self, name: str) -> bool:
        """Always false, whatever the tensor `name` is: no family of the table has whole numbers."""
        return False

    def passes_through(self, name: str) -> bool:
        """Whether the tensor `name` belongs to a tower."""
        return name.startswith(self.spelling.towers)


def _with_experts_of(row: Row, prefix: str, names: Collection[str]) -> Row:
    """The row with the tensors of joined experts, if these are what a file has."""
    if not any(prefix + name.replace("{i}", "0") in names for name in row.joined):
        return row
    return replace(row, tensors={name: shape for name, shape in row.tensors.items() if "{e}" not in name} | {**row.joined})


def _shapes(config: JsonObject, row: Row) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names after the prefix, and the shapes; the config has its defaults."""
    patterns = dict(row.tensors)
    for when in row.when:
        if flag(config, when.key, when.default) == when.value:
            patterns.update(when.tensors)
    sizes = _attention_sizes(config)
    layers = integer(config, "num_hidden_layers", limit=MAX_LAYERS)
    of_layer = _layer_tensors(config, row, layers)
    needed = {**patterns, **{name: text for shapes in of_layer for name, text in shapes.items()}}
    symbols = {symbol for text in needed.values() for symbol in text.split()}
    for symbol in {symbol.removeprefix("2") for symbol in symbols} & _KEYS.keys():
        sizes[symbol] = integer(config, _KEYS[symbol])
    sizes |= {f"2{symbol}": 2 * sizes.get(symbol, 0) for symbol in "FM"}
    if "E" in symbols:
        sizes["E"] = num_experts(config)
    if "LH" in symbols:
        sizes |= _linear_attention_sizes(config)
    yield from _expand({n: t for n, t in patterns.items() if "{i}" not in n}, 0, sizes)
    per_layer = {n: t for n, t in patterns.items() if "{i}" in n}
    for i in range(layers):
        yield from _expand({**per_layer, **of_layer[i]}, i, sizes)


def _layer_tensors(config: JsonObject, row: Row, layers: int) -> list[Shapes]:
    """What each layer has beside the tensors that all of them have."""
    if row.by_layer_type:
        return [row.by_layer_type[kind] for kind in _layer_types(config, row, layers)]
    sparse = _sparse_layers(config, layers) if row.sparse else frozenset()
    return [row.sparse if i in sparse else row.dense for i in range(layers)]


def _layer_types(config: JsonObject, row: Row, layers: int) -> list[str]:
    """The kind of each layer: `layer_types`, or by default three layers of linear attention and one of full."""
    every = integer(config, "full_attention_interval", row.defaults["full_attention_interval"])
    default = ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(layers)]
    types = config.get("layer_types") or default
    known = isinstance(types, list) and all(isinstance(kind, str) and kind in row.by_layer_type for kind in types)
    if not known or len(types) != layers:
        raise SourceError(
            f"config.json has {types!r:.200} as layer_types; expected {layers} of {', '.join(row.by_layer_type)}."
        )
    return types


def _linear_attention_sizes(config: JsonObject) -> dict[str, int]:
    keys = ("num_key_heads", "key_head_dim", "num_value_heads", "value_head_dim", "conv_kernel_dim")
    key_heads, key_dim, value_heads, value_dim, kernel = (integer(config, f"linear_{key}") for key in keys)
    key_width, value_width = key_heads * key_dim, value_heads * value_dim
    return {"LH": value_heads, "LD": value_dim, "LV": value_width, "LC": 2 * key_width + value_width, "LW": kernel}


def _sparse_layers(config: JsonObject, layers: int) -> frozenset[int]:
    """The layers whose feed-forward part is a mixture of experts."""
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(i) is int for i in dense):
        raise SourceError(f"config.json has {dense!r} as mlp_only_layers; expected a list of layer numbers.")
    step = integer(config, "decoder_sparse_step", 1)
    return frozenset(i for i in range(layers) if i not in dense and (i + 1) % step == 0)


def _attention_sizes(config: JsonObject) -> dict[str, int]:
    """Sizes of the attention. An explicit null means what it means to transformers: derived from the heads."""
    hidden, heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
    head_dim = integer(config, "head_dim", hidden // heads)
    kv_heads = integer(config, "num_key_value_heads", heads)
    query, key = heads * head_dim, kv_heads * head_dim
    sizes = {"1": 1, "D": hidden, "H": head_dim, "N": heads, "G": kv_heads, "Q": query, "K": key}
    return {**sizes, "2Q": 2 * query, "Q+2K": query + 2 * key}


def _expand(patterns: Shapes, layer: int, sizes: Mapping[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of one layer."""
    counters = {"{e}": "E", "{n}": "N", "{g}": "G"}
    for pattern, text in patterns.items():
        shape = tuple(sizes[symbol] for symbol in text.split())
        name = pattern.replace("{i}", str(layer))
        counter = next((mark for mark in counters if mark in name), None)
        if counter is None:
            yield name, shape
            continue
        for index in range(sizes[counters[counter]]):
            yield name.replace(counter, str(index)), shape
