"""Backends: everything that needs an array framework, one module each.

A backend module can be imported without its framework. It defines `PACKAGES` and `MODEL_PACKAGES` (what arithmetic and
models need), `unsupported(config)`, `pictures_unsupported(config)` and `open_backend(device)`. A new backend is one new
module in this directory.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from jaxconv.checkpoint import Array, Checkpoint
from jaxconv.errors import BackendUnavailable, UsageError
from jaxconv.families import composite_of
from jaxconv.json_files import JsonObject
from jaxconv.pictures import PictureArrays

DeviceArray: TypeAlias = Any  # an array of the backend's framework

DEVICES = ("auto", "cpu", "gpu", "tpu")
DTYPES = ("float32", "bfloat16", "float16")  # of a model's backbone
AUTO_ORDER = ("jax", "torch")


class DeviceMesh(Protocol):
    """A `jax.sharding.Mesh`, described without importing JAX."""

    @property
    def axis_names(self) -> tuple[DeviceArray, ...]:
        """The names of the mesh's axes."""
        ...

    @property
    def devices(self) -> Array:
        """The devices, one array axis for each name."""
        ...


class Classifier(Protocol):
    """A sequence classifier in memory."""

    @property
    def vocabulary_size(self) -> int:
        """The number of embedding rows; token ids must be smaller."""
        ...

    @property
    def compilations(self) -> int:
        """The number of input shapes compiled so far; 0 if the backend does not compile."""
        ...

    @property
    def compile_seconds(self) -> float:
        """The seconds that the first call of each compiled shape took, including its run."""
        ...

    def logits(self, token_ids: Sequence[Sequence[int]], pictures: Sequence[PictureArrays] = ()) -> list[list[float]]:
        """Raw logits of token sequences, pooled at the last token.

        Args:
            token_ids: The token ids of each sequence, without padding.
            pictures: The numbers of the pictures of each sequence; empty if no sequence has a picture.

        Returns:
            One list of `num_labels` float32 logits per sequence, in the order of the sequences.

        Raises:
            UsageError: A sequence is empty, or a token id has no embedding row.
        """
        ...


class Backend(Protocol):
    """One framework on one device. Arithmetic is IEEE float32, each operation rounded once.

    Models are described by a Hugging Face config.json and by tensors under Hugging Face names.
    """

    name: str
    device: str

    def put(self, x: Array) -> DeviceArray:
        """Copies the float32 host array `x` to the device."""
        ...

    def subtract(self, x: DeviceArray, y: DeviceArray) -> DeviceArray:
        """x - y, elementwise, of two device arrays."""
        ...

    def multiply(self, x: DeviceArray, scale: float) -> DeviceArray:
        """The device array `x` times the float32 scalar `scale`."""
        ...

    def get(self, x: DeviceArray) -> Array:
        """Copies the device array `x` to a float32 host array."""
        ...

    def unsupported(self, config: JsonObject) -> str | None:
        """Why this backend cannot run models with the config.json `config`; None if it can."""
        ...

    def classifier(self, directory: Path, *, dtype: str = "float32", mesh: DeviceMesh | None = None) -> Classifier:
        """Loads the `*ForSequenceClassification` model of a directory that `convert` wrote.

        Args:
            directory: The directory.
            dtype: The dtype of the backbone: "float32", "bfloat16" or "float16". The head is float32 in any case.
            mesh: Shards the model over these devices (JAX only).

        Raises:
            SourceError: The directory is damaged or does not hold a classifier.
            UsageError: The backend cannot run this model, or has no meshes.
        """
        ...

    def hidden_states(
        self,
        checkpoint: Checkpoint,
        config: JsonObject,
        token_ids: Sequence[Sequence[int]],
        pictures: Sequence[PictureArrays] = (),
    ) -> Array:
        """The last hidden state (after the final norm) at the last token, computed with float32 weights.

        Args:
            checkpoint: The tensors of a causal LM or classifier; a head is ignored.
            config: Its config.json.
            token_ids: The token ids of each sequence, without padding.
            pictures: The numbers of the pictures of each sequence; empty if no sequence has a picture.

        Returns:
            float32 [len(token_ids), hidden_size].

        Raises:
            SourceError: Tensors are missing or misshaped.
            UsageError: The backend cannot run this model, or a token id has no embedding row.
        """
        ...

    def causal_logits(
        self,
        checkpoint: Checkpoint,
        config: JsonObject,
        token_ids: Sequence[Sequence[int]],
        answers: Sequence[int],
        pictures: Sequence[PictureArrays] = (),
    ) -> Array:
        """The causal LM's own next-token logits, its scaling and softcap included, computed with float32 weights.

        Args:
            checkpoint: The tensors of a causal LM, with its head unless the head is tied.
            config: Its config.json.
            token_ids: The token ids of each prompt, without padding.
            answers: The token ids whose logits are returned.
            pictures: The numbers of the pictures of each prompt; empty if no prompt has a picture.

        Returns:
            float32 [len(token_ids), len(answers)].

        Raises:
            BackendUnavailable: This backend only has models without a causal LM head.
            SourceError: Tensors are missing or misshaped.
            UsageError: The backend cannot run this model, or a token id has no embedding row.
        """
        ...


def names() -> tuple[str, ...]:
    """The names of all backends, installed or not."""
    return tuple(sorted(entry.name for entry in pkgutil.iter_modules(__path__)))


def get_backend(
    name: str = "auto", device: str = "auto", *, config: JsonObject | None = None, pictures: bool = False
) -> Backend:
    """Opens a backend.

    Args:
        name: "jax", "torch", "numpy", or "auto": the first of jax and torch that is installed and, with `config`, runs the
            model.
        device: "cpu", "gpu", "tpu", or "auto": an accelerator if the framework has one, else the CPU.
        config: The config.json of a model that the backend must be able to run; None if only arithmetic is needed.
        pictures: Whether it must score pictures with that model too.

    Raises:
        BackendUnavailable: The backend or device is unknown or not installed.
        UsageError: The backend cannot run the model, or not with pictures.
    """
    if device not in DEVICES:
        raise BackendUnavailable(f"device {device!r} is unknown; expected one of: {', '.join(DEVICES)}.")
    if name not in ("auto", *names()):
        raise BackendUnavailable(f"backend {name!r} is unknown; expected one of: auto, {', '.join(names())}.")
    module = _first_usable(config, pictures) if name == "auto" else _usable(name, config, pictures)
    try:
        backend: Backend = module.open_backend(device)
    except (ImportError, RuntimeError) as error:
        raise BackendUnavailable(
            f"backend {module.__name__.rpartition('.')[2]!r} cannot use device {device!r}: {str(error).splitlines()[0]} "
            "Use --device cpu, or install the accelerator's build (jaxconv[tpu], jaxconv[cuda])."
        ) from error
    return backend


def check_dtype(dtype: str) -> None:
    """Raises `UsageError` for a dtype that models do not run in."""
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is unknown; expected one of: {', '.join(DTYPES)}.")


def pictures_unsupported(name: str, config: JsonObject) -> str | None:
    """Why a backend cannot score pictures, with the next step; None if it can.

    Args:
        name: The name of the backend.
        config: The model's config.json.
    """
    if composite_of(config) is None:
        return "the model reads text alone, and a pair has a picture; expected pairs of text."
    reason: str | None = importlib.import_module(f"{__name__}.{name}").pictures_unsupported(config)
    return reason


def _usable(name: str, config: JsonObject | None, pictures: bool = False) -> DeviceArray:
    """The module of a backend that is installed and runs the model."""
    module = importlib.import_module(f"{__name__}.{name}")
    packages = module.PACKAGES if config is None else module.MODEL_PACKAGES
    missing = [package for package in packages if not _is_installed(package)]
    if missing:
        raise BackendUnavailable(
            f"backend {name!r} needs {' and '.join(missing)}, not installed here. Run: pip install 'jaxconv[{name}]'"
        )
    reason = None if config is None else module.unsupported(config)
    if reason is None and config is not None and pictures:
        reason = pictures_unsupported(name, config)
    if reason is not None:
        raise UsageError(reason)
    return module


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module in sys.modules without a spec
        return False


def _first_usable(config: JsonObject | None, pictures: bool) -> DeviceArray:
    reasons = []
    for name in AUTO_ORDER:
        try:
            return _usable(name, config, pictures)
        except UsageError as error:
            reasons.append(str(error))
    numpy = " --backend numpy writes the same bytes without either." if config is None else ""
    raise BackendUnavailable(f"no backend is usable: {' '.join(reasons)}{numpy}")
