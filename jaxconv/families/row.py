"""The form of the table: what one row says about a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxconv.json_files import JsonObject

Shapes = Mapping[str, str]  # tensor name after the prefix -> its shape in symbols


@dataclass(frozen=True, slots=True)
class When:
    """Tensors that are there when a config key (or its default) is true, or false with `value=False`."""

    key: str
    default: bool
    tensors: Shapes
    value: bool = True


@dataclass(frozen=True, slots=True)
class Spelling:
    """What one generation of files calls the parts of a model.

    Attributes:
        prefix: What the names of the decoder's tensors begin with.
        head: The name of the LM head, without `.weight`.
        score: The name of the score layer in the output, without `.weight`.
        towers: What names begin with that are copied unread, such as those of a vision tower.
    """

    prefix: str = "model."
    head: str = "lm_head"
    score: str = "score"
    towers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Composite:
    """A family that reads pictures beside text: the language model of another row, and towers that are copied unread.

    Attributes:
        architecture: The class with the LM head.
        texts: The model_type of the language model -> the row that has its tensors. Old files of some families have no
            `text_config`; then it is the family's own.
        spellings: How files name the parts; the first is the one that transformers writes. `score` is where vLLM looks for
            the row: on the outer model, or on the language model where vLLM makes that by its own registry.
        architectures: The entries of `architectures` by which vLLM makes a classifier that keeps the pictures.
        tied: What an absent tie_word_embeddings means.
        tied_at_top: Whether the flag at the top of config.json is the one that counts; else true in `text_config` ties too.
        defaults: What transformers takes an absent key of the language model for, where it differs from the row's.
        served: Whether a real vLLM was run with an output of the family; else its code was read.
        picture: The text that stands for a picture in a prompt; None for the piece of the config's image token.
        interleaved: Whether transformers' class interleaves the positions of M-RoPE whatever config.json says.
    """

    architecture: str
    texts: Mapping[str, str]
    spellings: tuple[Spelling, ...]
    architectures: tuple[str, ...]
    tied: bool = False
    tied_at_top: bool = True
    defaults: JsonObject = field(default_factory=dict)
    served: bool = True
    picture: str | None = None
    interleaved: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One family.

    Attributes:
        architecture: The class of the causal LM.
        tensors: The tensors that every model has. Names with `{i}` stand for each layer.
        when: Tensors that a config key decides on.
        sparse: The feed-forward tensors of layers with experts.
        dense: Those of layers without, in families that have both.
        defaults: What transformers takes an absent config key for.
        by_layer_type: The tensors of a layer by its entry in `layer_types`.
        accepts: Further values of `architectures` in config.json that name the same model.
        target: The class of the output, where it is not the causal LM's with another suffix.
        spellings: How files name the parts; the first is the one that transformers writes.
        tied: What an absent tie_word_embeddings means.
        multiply: The config key that logits are multiplied by.
        divide: The config key that logits are divided by.
        softcap: The config key of the tanh cap on logits.
        draft: What names of a draft head begin with; no classifier has it.
        head_bias: Whether the LM head has a bias.
        transformers_seq_cls: Whether transformers has a ForSequenceClassification class.
        joined: What takes the place of single experts' tensors in files that hold all experts of a layer in one.
    """

    architecture: str
    tensors: Shapes
    when: tuple[When, ...] = ()
    sparse: Shapes = field(default_factory=dict)
    dense: Shapes = field(default_factory=dict)
    defaults: JsonObject = field(default_factory=dict)
    by_layer_type: Mapping[str, Shapes] = field(default_factory=dict)
    accepts: tuple[str, ...] = ()
    target: str | None = None
    spellings: tuple[Spelling, ...] = (Spelling(),)
    tied: bool = False
    multiply: str | None = None
    divide: str | None = None
    softcap: str | None = None
    draft: str | None = None
    head_bias: bool = False
    transformers_seq_cls: bool = True
    joined: Shapes = field(default_factory=dict)
