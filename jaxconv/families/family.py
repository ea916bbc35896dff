"""What jaxconv asks about a model family."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from jaxconv.families.parameter import Parameter
from jaxconv.families.row import Composite
from jaxconv.json_files import JsonObject


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What the causal LM does between `hidden @ lm_head.T` and its logits: scale, then bias, then softcap."""

    scale: float = 1.0
    bias: bool = False
    softcap: float | None = None


@dataclass(frozen=True, slots=True)
class HeadNames:
    """Where the LM head of a family is, and where the score row goes.

    Attributes:
        weight: The tensor whose rows score tokens, [vocab_size, hidden_size].
        bias: Its bias, [vocab_size]; None for a family without.
        embedding: The input embedding, which is the head of a tied model.
        tied: What an absent tie_word_embeddings means.
        score: The score layer of the output, without `.weight`.
    """

    weight: str
    bias: str | None
    embedding: str
    tied: bool
    score: str = "score"


class Family(Protocol):
    """A model family. Methods take the whole config.json; tensor names are those of its files."""

    @property
    def model_type(self) -> str:
        """The family's name in config.json."""
        ...

    @property
    def architecture(self) -> str:
        """The class of the causal LM."""
        ...

    @property
    def target_architecture(self) -> str:
        """The class of the classifier, as vLLM names it."""
        ...

    @property
    def architectures(self) -> tuple[str, ...]:
        """The `architectures` of the output: `target_architecture`, or what keeps the pictures of a composite in vLLM."""
        ...

    @property
    def composite(self) -> Composite | None:
        """How the family reads pictures beside text; None for a family of text."""
        ...

    @property
    def towers(self) -> tuple[str, ...]:
        """What the names of tensors begin with that are copied unread."""
        ...

    @property
    def transformers_seq_cls(self) -> bool:
        """Whether transformers has a sequence classification class that loads the output."""
        ...

    @property
    def by_proof(self) -> bool:
        """Whether a conversion must be proven through transformers before it is published."""
        ...

    @property
    def head(self) -> HeadNames:
        """The names of the LM head and of the score layer."""
        ...

    def spelled_as(self, names: Collection[str]) -> Family:
        """The same family in the spelling of a file whose tensors have these `names`."""
        ...

    def transform(self, config: JsonObject) -> LogitTransform:
        """What follows `hidden @ lm_head.T` in the causal LM of `config`.

        Raises:
            SourceError: A value is not a positive number.
            RefusedError: A key scales logits in other families but not in this one, so that loaders disagree.
        """
        ...

    def parameters(self, config: JsonObject) -> Mapping[str, Parameter]:
        """Every backbone tensor of a model with `config`, by its name in the file, without the head.

        Raises:
            SourceError: A size is missing or not a positive whole number.
        """
        ...

    def is_left_out(self, name: str, config: JsonObject) -> bool:
        """Whether a tensor that a file may hold does not belong in the output: a computed buffer, a draft head.

        Args:
            name: The tensor's name in the file.
            config: The config.json.
        """
        ...

    def holds_integers(self, name: str) -> bool:
        """Whether the tensor `name` holds whole numbers in an unquantised model too, such as a table of token ids."""
        ...

    def passes_through(self, name: str) -> bool:
        """Whether the tensor `name`, which `parameters` does not list, is copied unread, as those of a vision tower are."""
        ...


def score_layer(names: Collection[str]) -> str | None:
    """What a classifier's score layer is called, without `.weight`.

    Args:
        names: The names of its tensors.

    Returns:
        The name; None if there is no such layer.
    """
    return next((layer for layer in ("score", "language_model.score") if f"{layer}.weight" in names), None)


def text_config(config: JsonObject) -> JsonObject:
    """The language model's part of `config`, a config.json: `text_config` of composite ones, else the whole."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config
