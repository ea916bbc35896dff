"""What is scored, and what computes the two sides: one implementation or two."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxconv.backends import Backend, get_backend
from jaxconv.checkpoint import Array, Checkpoint
from jaxconv.errors import BackendUnavailable, UsageError
from jaxconv.json_files import JsonObject
from jaxconv.model import Model, read_config
from jaxconv.quantisation.reading import dequantised, plain_classifier, without_quantisation
from jaxconv.readers import open_checkpoint
from jaxconv.verification.array_comparison import Merge
from jaxconv.verification.claims import Expected
from jaxconv.verification.output import Output
from jaxconv.verification.quantisation import has_quantizer
from jaxconv.verification.source_files import SourceFiles

Kind = Literal["independent", "consistency"]


@dataclass(frozen=True, slots=True)
class Sides:
    """What computes the source's logits, and what computes the output's (the first one's scores are reported).

    `quantizer` says that transformers reads both directories with its own quantizer.
    """

    source: Backend
    output: tuple[Backend, ...]
    quantizer: bool = False

    @property
    def kind(self) -> Kind:
        """Independent if the reported scores of the output and those of the source come from two implementations."""
        return "consistency" if self.source.name == self.output[0].name else "independent"

    @property
    def name(self) -> str:
        """The two implementations, or the one."""
        return self.source.name if self.kind == "consistency" else f"{self.source.name} and {self.output[0].name}"


@dataclass(frozen=True, slots=True)
class Compared:
    """What the scores are computed from.

    Attributes:
        model: The source as the conversion reads it: its config and its head.
        source: The source's own arrays.
        merges: How an adapter changes them.
        output: The output.
        expected: What the output must be.
    """

    model: Model
    source: SourceFiles
    merges: Mapping[str, Merge]
    output: Output
    expected: Expected

    @property
    def backbone(self) -> Checkpoint:
        """The source's backbone without the code that converted it, cast as the output's is."""
        names = self.model.checkpoint.tensors
        checkpoint = self.source.checkpoint(names, self.output.tensors, self.merges, self.expected.dtype)
        packed = self.model.packed
        return checkpoint if packed is None else dequantised(checkpoint, packed.storages)

    @property
    def causal_lm(self) -> tuple[Checkpoint, JsonObject]:
        """The backbone with the head, and the config that gives uncapped logits; of a text-only output the whole source.

        The head is never cast and never rounded, so that a tied one is given apart from a cast or dequantised embedding.
        """
        backbone, head = self.backbone, self.model.lm_head
        config: JsonObject = without_quantisation(_without_softcap(self.model))
        name = self.model.family.head.weight
        if self.model.whole is not None:
            return self._whole(backbone)
        tensors = {**backbone.tensors, name: head.weight.renamed(name)}
        if head.bias is not None:
            tensors[head.bias.name] = head.bias
        if self.model.family.composite is not None:
            config = {**config, "architectures": [self.model.family.architecture]}
        if self.expected.dtype is not None or self.model.dequantised is not None:
            config = _with(config, tie_word_embeddings=False)
        return dataclasses.replace(backbone, tensors=tensors), config

    def _whole(self, backbone: Checkpoint) -> tuple[Checkpoint, JsonObject]:
        """The composite with its towers, whose language model is `backbone`, under the source's own names."""
        whole = self.model.whole
        assert whole is not None
        head = self.model.lm_head.weight
        name = whole.head.weight
        towers = {key: ref for key, ref in self.source.raw.items() if whole.passes_through(key)}
        language = {self.source.named(key)[0].name: ref for key, ref in backbone.tensors.items()}
        tensors = {**towers, **{key: ref.renamed(key) for key, ref in language.items()}, name: head.renamed(name)}
        config: JsonObject = {**read_config(self.model.source), "architectures": [whole.architecture]}
        config = _with(config, tie_word_embeddings=False) if self.expected.dtype is not None else config
        return dataclasses.replace(backbone, tensors=tensors), config

    @property
    def score_weight(self) -> Array:
        """The output's score rows [labels, hidden size], float64."""
        return self._score("weight")

    @property
    def score_bias(self) -> Array:
        """The output's score bias [labels], float64; zero if it has none."""
        import numpy as np

        bias = f"{self.model.family.head.score}.bias" in self.output.tensors
        return self._score("bias") if bias else np.zeros(self.expected.num_labels)

    def _score(self, kind: str) -> Array:
        import numpy as np

        name = f"{self.model.family.head.score}.{kind}"
        return self.output.tensors[name].array(name).astype(np.float64)

    @property
    def classifier(self) -> tuple[Checkpoint, JsonObject]:
        """The classifier's tensors as the safetensors library reads them, or dequantised, and its config."""
        tensors = {name: stored.reference(name) for name, stored in self.output.tensors.items()}
        checkpoint = Checkpoint("safetensors", str(self.output.folder), tensors)
        if self.model.packed is None:
            return checkpoint, self.output.config
        return plain_classifier(open_checkpoint(self.output.folder), self.output.config, self.output.folder)

    @property
    def plain_config(self) -> JsonObject:
        """The source's config for tensors that are dequantised."""
        return without_quantisation(self.model.config)


def choose_sides(backend: str, device: str, compared: Compared, *, quantizer: bool = True) -> Sides:
    """Who computes what. A backend that the caller names computes both sides, and no other is imported.

    With "auto" and two backends that run the model, transformers computes the source's logits and JAX the output's, and the
    output's are computed by transformers too. Arrays that hold several layers are read by JAX, which takes them in order.
    A quantised source that transformers reads is left to it on both sides, so that no code of jaxconv touches the weights.

    Args:
        backend: The backend that the caller names, or "auto".
        device: The device that the caller names, or "auto".
        compared: Source and output.
        quantizer: Whether transformers' quantizer may be used.

    Args:
        backend: The name of a backend, or "auto".
        device: "auto", "cpu", "gpu" or "tpu".
        compared: What the scores are computed from.

    Raises:
        BackendUnavailable: No backend, or not the one that is named, is installed.
        UsageError: The backend cannot run the model.
    """
    config = compared.model.config
    if compared.model.family.by_proof:  # transformers, on a device that PyTorch has
        backend, device = "torch", "auto" if device == "tpu" else device
    if quantizer and backend in ("auto", "torch") and has_quantizer(compared.model):
        try:
            runner = get_backend("torch", device, config=config)
            return Sides(runner, (runner,), quantizer=True)
        except (BackendUnavailable, UsageError):
            pass
    if backend != "auto":
        runner = get_backend(backend, device, config=config)
        return Sides(runner, (runner,))
    usable: dict[str, Backend] = {}
    for name in ("jax", "torch"):
        try:
            usable[name] = get_backend(name, device, config=config)
        except (BackendUnavailable, UsageError):
            continue
    if len(usable) < 2:
        runner = get_backend("auto", device, config=config)
        return Sides(runner, (runner,))
    jax, torch = usable["jax"], usable["torch"]
    if compared.source.is_stacked(compared.model.checkpoint.tensors, compared.output.tensors):
        return Sides(jax, (torch,))
    return Sides(torch, (jax, torch))


def _without_softcap(model: Model) -> JsonObject:
    """The config whose causal LM gives uncapped logits; a family's default cap counts as well."""
    if model.transform.softcap is None:
        return model.config
    return _with(model.config, final_logit_softcapping=None)


def _with(config: JsonObject, **keys: object) -> JsonObject:
    """A config with keys set, in the language model's part too."""
    text = config.get("text_config")
    return {**config, **keys, **({"text_config": {**text, **keys}} if isinstance(text, dict) else {})}
