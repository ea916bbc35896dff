"""What a conversion will do, decided before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jaxconv.adapter import Adapter
    from jaxconv.checkpoint import Checkpoint, TensorRef
    from jaxconv.families import Family

Method = Literal["from_2_way_softmax", "no_post_processing"]
Activation = Literal["sigmoid", "identity"]
METHODS: tuple[Method, ...] = ("from_2_way_softmax", "no_post_processing")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights, the config and the tokenizer of a conversion lie.

    `weights` is a local path, or a URI that TensorStore opens; `assets` is the local folder with
    `config.json` and the tokenizer (the same folder, or that of `--base`).
    """

    name: str
    weights: Path | str
    assets: Path
    hub_id: str | None = None
    base_id: str | None = None  # hub id of the base that config and tokenizer come from
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """One vocabulary entry whose logit counts. `text` is the vocabulary piece."""

    text: str
    id: int


@dataclass(frozen=True, slots=True)
class Affine:
    """score = scale * logit + bias."""

    scale: float = 1.0
    bias: float = 0.0

    def then(self, other: Affine) -> Affine:
        """This map followed by `other`."""
        return Affine(self.scale * other.scale, self.bias * other.scale + other.bias)


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What the causal LM does between `hidden @ lm_head.T` and its logits: scale, then bias, then softcap."""

    scale: float = 1.0
    bias: bool = False
    softcap: float | None = None


@dataclass(frozen=True, slots=True)
class LmHead:
    """The tensor whose rows are the vocabulary: shape [vocab_size, hidden_size]."""

    weight: TensorRef
    bias: TensorRef | None
    tied: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt a reranker was trained with: a Jinja template over `query`, `document`, `instruction`.

    `template` is the text that vLLM's `--chat-template` takes (see bundle/template.py).
    `known` is False for the plain query-then-document pair that stands in for a missing template. `max_length` counts
    tokens; `caveat` says where the prompt's token ids are not those of the authors' code.
    """

    template: str
    known: bool = True
    instruction: str | None = None
    max_length: int | None = None
    caveat: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a conversion will do; made without reading tensor data and without a framework."""

    source: Source
    checkpoint: Checkpoint  # Hugging Face names, still the causal LM's
    format: str
    layout: str
    config: Mapping[str, Any]
    family: Family
    lm_head: LmHead
    transform: LogitTransform
    tokens: tuple[Token, ...]  # false first, true second for from_2_way_softmax
    method: Method
    prompt: Prompt
    activation: Activation
    calibration: Affine = Affine()
    preset: str | None = None
    preset_origin: str | None = None  # how it was found: "--preset", "hub id", ...
    dtype: str | None = None  # safetensors dtype the backbone is cast to; None: as stored
    use_sep_token: bool = False
    warnings: tuple[str, ...] = field(default_factory=tuple)
    adapter: Adapter | None = None  # merged into the checkpoint

    @property
    def num_labels(self) -> int:
        """Rows of the score head: one for the two-way difference, else one per token."""
        return 1 if self.method == "from_2_way_softmax" else len(self.tokens)

    @property
    def hidden_size(self) -> int:
        """Width of the final hidden state."""
        return self.lm_head.weight.shape[1]
