"""Families that no table describes: their structure is taken from transformers, their conversions are proven.

A causal LM qualifies if a linear layer alone stands between its backbone and its logits, as far as its structure and its
config show it. What they do not show is found by the proof: `convert` publishes the output only after transformers has run
source and output and the scores agree.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from jaxconv.errors import RefusedError, SourceError
from jaxconv.families.family import Family, HeadNames, LogitTransform, text_config
from jaxconv.families.kinds import parameter
from jaxconv.families.parameter import Parameter
from jaxconv.families.refusals import suspicious_keys
from jaxconv.families.values import MAX_LAYERS, MAX_SIZE
from jaxconv.json_files import JsonObject

if TYPE_CHECKING:
    from torch_backend.families import BuiltModel, Names

# The warning of a plan, the note of a card.
PROOF = (
    "by proof: jaxconv has no table of this family. The output is published only after transformers ran source and output "
    "and their scores agreed, which needs PyTorch and transformers (pip install 'jaxconv[torch]'). vLLM runs its own code: "
    "compare a server with `jaxconv verify --against-vllm`."
)
INSTALL = "pip install 'jaxconv[torch]'"
NEEDS = ("torch", "transformers")
HEAD = "lm_head.weight"
SUFFIX = "ForCausalLM"
TOWER = re.compile(r".*(vision|visual|image|video|audio|speech|vq).*_config")
COUNTS = re.compile(r".*(layers|n_layer|blocks|experts)")  # a config may ask for millions, each of them a module


@dataclass(frozen=True)
class ProofFamily:
    """transformers' answers to the questions of `Family`."""

    model_type: str
    built: BuiltModel
    names: Names
    by_proof: bool = True
    composite: None = None
    towers: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """The class of the causal LM."""
        return self.built.architecture

    @property
    def target_architecture(self) -> str:
        """The class of the classifier: vLLM goes by the suffix."""
        return self.built.architecture.removesuffix(SUFFIX) + "ForSequenceClassification"

    @property
    def architectures(self) -> tuple[str, ...]:
        """The `architectures` of the output."""
        return (self.target_architecture,)

    @property
    def transformers_seq_cls(self) -> bool:
        """Whether transformers has a sequence classification class that loads the output."""
        return self.built.classifier is not None

    @property
    def head(self) -> HeadNames:
        """The names of the LM head and of the score layer."""
        return HeadNames(
            str(self.names.head), self.names.head_bias, str(self.names.embedding), tied=self.built.tied
        )  # fmt: skip

    def spelled_as(self, names: Collection[str]) -> ProofFamily:
        """The same family under the names inside the model, if `names`, those of a file, have all of them."""
        loaded = self.built.loaded
        return replace(self, names=loaded) if loaded.tensors.keys() <= set(names) else self

    def transform(self, config: JsonObject) -> LogitTransform:
        """A bias at most: every key of `config` that scales or caps logits was refused."""
        return LogitTransform(bias=self.names.head_bias is not None)

    def parameters(self, config: JsonObject) -> Mapping[str, Parameter]:
        """Every backbone tensor by its name in the file, without the head.

        `config` is not used: the model was built from it.
        """
        head, embeddings = (self.names.head, self.names.head_bias), self.built.embeddings | {str(self.names.embedding)}
        return {
            name: parameter(name, shape, embeddings)
            for name, shape in self.names.tensors.items()
            if name not in head or name == self.names.embedding
        }

    def is_left_out(self, name: str, config: JsonObject) -> bool:
        """Whether transformers passes over a tensor.

        Args:
            name: The tensor's name in the file.
            config: Not used: the model was built from it.
        """
        return any(re.search(pattern, name) for pattern in self.built.ignored)

    def holds_integers(self, name: str) -> bool:
        """Whether the tensor `name` holds whole numbers in transformers' model."""
        return name in self.names.integers

    def passes_through(self, name: str) -> bool:
        """Whether `name` is another name of a parameter that is in the file already."""
        return name in self.built.aliases


def check_proof_can_run(family: Family, layout: str, *, local: bool, adapted: bool) -> None:
    """Refuses sources that transformers cannot load as they are, so that their conversion cannot be proven.

    Args:
        family: A family whose conversions have to be proven.
        layout: The layout of the source's tensor names.
        local: Whether the weights are files on this machine.
        adapted: Whether an adapter is merged into them.

    Raises:
        RefusedError: The source is not a plain Hugging Face checkpoint.
    """
    if layout == "hf" and local and not adapted:
        return
    cause = "an adapter" if adapted else f"the layout {layout}" if layout != "hf" else "weights that are not local files"
    raise RefusedError(
        f"{family.architecture} is converted by proof, which loads the source through transformers; this source has {cause}. "
        "Write it as a Hugging Face checkpoint first (merge_and_unload and save_pretrained for an adapter)."
    )


def proof_family(config: JsonObject, known: str) -> ProofFamily:
    """The family of a config that the table does not have.

    Args:
        config: The config.json.
        known: A sentence that lists the model types of the table, for messages.

    Raises:
        RefusedError: It is not a causal LM with a linear head that the installed transformers can build, or PyTorch or
            transformers is not installed.
        SourceError: A number of the config is out of range.
    """
    model_type = config.get("model_type")
    unknown = f"config.json has model_type {model_type!r:.80}, a family that jaxconv does not know"
    if not isinstance(model_type, str):
        raise RefusedError(f"{unknown}. {known}")
    if any(importlib.util.find_spec(package) is None for package in NEEDS):
        raise RefusedError(
            f"{unknown}. It may be convertible by proof, which runs the model through transformers. "
            f"Install it with: {INSTALL}. {known}"
        )
    _check_counts(config)
    built = _build(json.dumps(config, sort_keys=True))
    if isinstance(built, str):
        raise RefusedError(f"{unknown}, and {built}. {known}")
    _refuse_config(config, built)
    _refuse_structure(config, built)
    return ProofFamily(model_type, built, built.saved)


@lru_cache(8)
def _build(config: str) -> BuiltModel | str:
    """The model of a config, or why there is none."""
    from torch_backend.families import build

    try:
        return build(json.loads(config))
    except ValueError as error:
        return str(error)


def _check_counts(config: JsonObject) -> None:
    for part in (config, text_config(config)):
        for key, value in part.items():
            limit = MAX_LAYERS if COUNTS.fullmatch(key) else MAX_SIZE
            if isinstance(value, int) and value > limit:
                raise SourceError(f"config.json has {value!r:.60} as {key}; expected a whole number up to {limit}.")


def _refuse_config(config: JsonObject, built: BuiltModel) -> None:
    name = built.architecture
    if built.is_encoder_decoder:
        raise RefusedError(f"{name} is an encoder-decoder; its answer is not the next token of one decoder.")
    if not name.endswith(SUFFIX):
        raise RefusedError(f"{name} has no {SUFFIX} in its name, so that vLLM would not find its classifier.")
    towers = [key for key, value in built.config.items() if TOWER.fullmatch(key) and isinstance(value, dict)]
    if towers:
        raise RefusedError(
            f"{name} takes more than text ({', '.join(sorted(towers))} in config.json); expected a model of text. "
            "The proof of a family without a table compares scores of text alone."
        )
    keys = sorted({*suspicious_keys(config), *suspicious_keys(built.config)})
    if keys:
        raise RefusedError(
            f"config.json ({name}) has {', '.join(keys)}, which may change logits after the head; expected a head that is "
            "linear and nothing more. A family of this kind needs a row of its own in jaxconv/families/table.py."
        )


def _refuse_structure(config: JsonObject, built: BuiltModel) -> None:
    name, head = built.architecture, built.loaded.head
    if head is None or built.loaded.embedding is None or built.head_shape is None:
        raise RefusedError(f"{name} has no linear layer as its head; expected {HEAD} or the input embedding.")
    if head != HEAD and not built.tied:
        raise RefusedError(f"{name} has {head} as its head; expected {HEAD} or the input embedding.")
    if built.outside:
        raise RefusedError(
            f"{name} has {_listed(built.outside)} between its backbone and its head; expected a linear layer alone."
        )
    if built.missing:
        raise RefusedError(
            f"transformers' backbone of {name} has {_listed(built.missing)} beside what the causal LM has; expected the same "
            "tensors, without an encoder. It would make up what is missing."
        )
    shape = built.loaded.tensors[built.loaded.embedding] if built.tied else built.head_shape
    if built.classifier is not None and built.classifier != {"score.weight": (2, shape[1])}:
        layers = _listed([f"{layer} {list(size)}" for layer, size in built.classifier.items()])
        raise RefusedError(
            f"transformers' classifier of {name} has {layers} after its backbone; expected score.weight [2, {shape[1]}]. "
            "It would ignore the score row."
        )
    for flag in (part.get("tie_word_embeddings") for part in (config, text_config(config))):
        if isinstance(flag, bool) and flag is not built.tied:
            raise RefusedError(
                f"config.json has tie_word_embeddings {str(flag).lower()}, but {name} of transformers "
                f"{'ties' if built.tied else 'does not tie'} head and embedding; loaders would disagree."
            )


def _listed(names: Collection[str]) -> str:
    first = list(names)[:5]
    return f"{', '.join(first)}{f' and {len(names) - len(first)} more' if len(names) > len(first) else ''}"
