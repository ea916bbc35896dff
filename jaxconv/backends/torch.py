"""PyTorch on CUDA or CPU, through `torch_backend`. Models are the classes of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxconv.backends import Classifier, DeviceMesh, check_dtype
from jaxconv.checkpoint import Array, Checkpoint, Packed, mapped
from jaxconv.errors import SourceError, UsageError
from jaxconv.families import composite_of, score_layer
from jaxconv.json_files import JsonObject, read_object
from jaxconv.models.token_ids import check_token_ids
from jaxconv.pictures import PictureArrays, missing_packages
from jaxconv.quantisation.reading import plain_classifier
from jaxconv.readers import open_checkpoint
from jaxconv.storage import original

if TYPE_CHECKING:
    from torch_backend.models import TorchClassifier

PACKAGES = ("torch",)
MODEL_PACKAGES = ("torch", "transformers")
HEADS = tuple(f"{inner}{head}." for inner in ("", "language_model.") for head in ("lm_head", "score"))


def unsupported(config: JsonObject) -> str | None:
    """Why transformers has no model for a config; None if it has one."""
    from torch_backend.models import unsupported

    return unsupported(config)


def pictures_unsupported(config: JsonObject) -> str | None:
    """Why pictures are not scored with `config`; None if they are, as with every family that reads them."""
    return missing_packages()


class TorchBackend:
    """One PyTorch device ("cpu" or "cuda")."""

    name = "torch"
    unsupported = staticmethod(unsupported)

    def __init__(self, device: str) -> None:
        from torch_backend.arithmetic import TorchArithmetic

        arithmetic = TorchArithmetic(device)
        self.device = arithmetic.device
        self.put, self.get = arithmetic.put, arithmetic.get
        self.subtract, self.multiply = arithmetic.subtract, arithmetic.multiply

    def classifier(self, directory: Path, *, dtype: str = "float32", mesh: DeviceMesh | None = None) -> Classifier:
        """Loads the classifier in `directory` through transformers with a backbone of `dtype`; a `mesh` is refused."""
        from torch_backend.composites import load_composite_backbone
        from torch_backend.models import TorchClassifier, load_backbone

        check_dtype(dtype)
        if mesh is not None:
            raise UsageError("mesh is for the JAX backend; the torch backend runs on one device.")
        config = read_object(directory / "config.json", "the model's configuration")
        checkpoint = open_checkpoint(original(directory))
        score = score_layer(checkpoint.tensors)
        if score is None:
            raise SourceError(f"{directory} has no score.weight; expected a converted classifier. Run jaxconv convert.")
        checkpoint, config = plain_classifier(checkpoint, config, directory)
        readers, packed = _readers(checkpoint), _packed(checkpoint)
        weight, bias = readers.pop(f"{score}.weight"), readers.pop(f"{score}.bias", None)
        with _errors(directory):
            if has_towers(config, checkpoint):
                backbone = load_composite_backbone(config, readers, self.device, dtype)
            else:
                backbone = load_backbone(config, readers, self.device, dtype, packed)
            model = TorchClassifier(backbone, weight(), None if bias is None else bias(), self.device)
        return _CheckedClassifier(model)

    def hidden_states(
        self,
        checkpoint: Checkpoint,
        config: JsonObject,
        token_ids: Sequence[Sequence[int]],
        pictures: Sequence[PictureArrays] = (),
    ) -> Array:
        """The hidden states that transformers computes for `token_ids` and `pictures`, from `checkpoint` and its `config`."""
        from torch_backend.composites import load_composite_backbone
        from torch_backend.models import hidden_states, load_backbone

        with _errors(checkpoint.path):
            if pictures:
                model = load_composite_backbone(config, _without_head(checkpoint), self.device)
            else:
                model = load_backbone(config, _readers(checkpoint), self.device, packed=_packed(checkpoint))
            check_token_ids(token_ids, _embedding_rows(model))
            return hidden_states(model, token_ids, pictures)

    def causal_logits(
        self,
        checkpoint: Checkpoint,
        config: JsonObject,
        token_ids: Sequence[Sequence[int]],
        answers: Sequence[int],
        pictures: Sequence[PictureArrays] = (),
    ) -> Array:
        """The logits of `answers` after `token_ids` and `pictures` in transformers, from `checkpoint` and its `config`."""
        from torch_backend.composites import load_composite, reads_pictures
        from torch_backend.models import causal_logits, load_causal_lm

        with _errors(checkpoint.path):
            if reads_pictures(config):
                model = load_composite(config, _readers(checkpoint), self.device)
            else:
                model = load_causal_lm(config, _readers(checkpoint), self.device, packed=_packed(checkpoint))
            check_token_ids([*token_ids, answers], _embedding_rows(model))
            return causal_logits(model, token_ids, answers, pictures)


class _CheckedClassifier:
    """A classifier that refuses token ids without an embedding row before PyTorch sees them."""

    compilations = 0
    compile_seconds = 0.0

    def __init__(self, model: TorchClassifier) -> None:
        self.model = model
        self.vocabulary_size = _embedding_rows(model.backbone)

    def logits(self, token_ids: Sequence[Sequence[int]], pictures: Sequence[PictureArrays] = ()) -> list[list[float]]:
        check_token_ids(token_ids, self.vocabulary_size)
        with _errors("the output"):
            return self.model.logits(token_ids, pictures)


def _embedding_rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def has_towers(config: JsonObject, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is that of a model of pictures, and not of its language model alone.

    Args:
        config: The config.json.
        checkpoint: The tensors.
    """
    composite = composite_of(config)
    towers = () if composite is None else tuple(tower for spelling in composite.spellings for tower in spelling.towers)
    return any(name.startswith(towers) for name in checkpoint.tensors) if towers else False


def _without_head(checkpoint: Checkpoint) -> dict[str, Callable[[], Array]]:
    """What torch_backend takes of a backbone."""
    readers = _readers(checkpoint)
    return {name: read for name, read in readers.items() if not name.startswith(HEADS)}


def _readers(checkpoint: Checkpoint) -> dict[str, Callable[[], Array]]:
    """What torch_backend takes: tensor names and functions that read the tensors."""
    tensors: JsonObject = checkpoint.tensors
    return {name: partial(mapped, ref) for name, ref in tensors.items()}


def _packed(checkpoint: Checkpoint) -> dict[str, tuple[Callable[[], Array], ...]]:
    """Functions that read codes, scales and, if there are, zero points of the matrices that are stored so."""
    packed: dict[str, Packed] = {name: ref.packed for name, ref in checkpoint.tensors.items() if ref.packed is not None}
    return {
        name: (partial(mapped, entry.codes), entry.scales, *([] if entry.zeros is None else [entry.zeros]))
        for name, entry in packed.items()
    }


@contextmanager
def _errors(where: Path | str) -> Iterator[None]:
    """Turns what torch_backend raises into a `SourceError` that names the model."""
    from torch_backend.models import ModelError

    try:
        yield
    except ModelError as error:
        raise SourceError(f"transformers cannot run the model of {where}: {error}") from error


def open_backend(device: str) -> TorchBackend:
    """The backend on a device. Raises `RuntimeError` if PyTorch does not have the device."""
    return TorchBackend(device)
