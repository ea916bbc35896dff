"""Token ids and numbers of a prompt with pictures, by transformers' processor of an output."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from jaxconv.errors import BackendUnavailable, SourceError, UsageError
from jaxconv.json_files import JsonObject
from jaxconv.pictures.loading import Picture

if TYPE_CHECKING:
    from jaxconv.checkpoint import Array

PictureArrays: TypeAlias = "Mapping[str, Array]"  # what a model takes beside token ids, by transformers' names
# vLLM resizes by torchvision; other code rounds pixels differently, which would be seen in scores.
PACKAGES = ("PIL", "torch", "torchvision", "transformers")
INSTALL = "Run: pip install 'jaxconv[pictures]'"
IDS = ("input_ids", "attention_mask")


@dataclass(frozen=True, slots=True)
class PictureInputs:
    """A prompt as a model takes it.

    Attributes:
        ids: Its token ids, marks expanded.
        arrays: The numbers of its pictures, by the names that transformers' models have for them.
    """

    ids: list[int]
    arrays: PictureArrays


class PictureProcessor:
    """transformers' processor of a directory, loaded when the first picture comes.

    Args:
        folder: The directory with the processor's files.
        limits: The least and most pixels of a picture; None for those of the processor's files.
    """

    def __init__(self, folder: Path, limits: tuple[int, int] | None) -> None:
        self.folder, self.limits = folder, limits
        self._processor: Any = None

    def inputs(self, prompt: str, pictures: Sequence[Picture]) -> PictureInputs:
        """What a model is given of a prompt.

        Args:
            prompt: The rendered prompt, with a mark for every picture.
            pictures: The pictures in the order of their marks.

        Raises:
            BackendUnavailable: Packages that the processor needs are missing.
            SourceError: The processor's files are damaged.
            UsageError: A picture is damaged, or the processor refuses it.
        """
        self._processor = self._processor or load_processor(self.folder)
        images = [picture.image() for picture in pictures]
        size = {"size": dict(zip(("shortest_edge", "longest_edge"), self.limits, strict=True))} if self.limits else {}
        try:
            features = self._processor(text=[prompt], images=images, return_tensors="pt", **size)
            arrays = {name: value.numpy() for name, value in features.items()}
        except Exception as error:  # every family has code of its own
            names = ", ".join(picture.name for picture in pictures)
            reason = " ".join(str(error).split())
            raise UsageError(
                f"the processor of {self.folder} refuses the pictures {names:.200} ({type(error).__name__}: {reason:.300}). "
                "Give others, or check that the template renders query and document once."
            ) from None
        ids = [int(index) for index in arrays["input_ids"][0]]
        return PictureInputs(ids, {name: array for name, array in arrays.items() if name not in IDS})


def load_processor(folder: Path) -> Any:
    """transformers' processor of a directory; no code that lies there is run.

    Args:
        folder: The directory.

    Raises:
        BackendUnavailable: A package is missing or broken.
        SourceError: The processor's files are missing or damaged.
    """
    missing = missing_packages()
    if missing is not None:
        raise BackendUnavailable(missing)
    from transformers import AutoProcessor

    auto: Any = AutoProcessor
    try:
        return auto.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # files of strangers make transformers raise nearly anything
        reason = " ".join(str(error).split())
        raise SourceError(
            f"transformers cannot load the processor of {folder} ({type(error).__name__}: {reason:.300}); expected "
            "preprocessor_config.json or processor_config.json as the model's authors publish it."
        ) from None


def missing_packages() -> str | None:
    """Which of the packages that pictures need cannot be imported, in a sentence; None if all can be."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            shown = {"PIL": "Pillow"}.get(name, name)
            return f"pictures need {shown}, not installed here. {INSTALL}"
        except Exception as error:  # a build for another torch
            return f"pictures need {name}, which cannot be imported ({error}). Install the build that fits your torch."
    return None


def recorded_limits(record: JsonObject | None) -> tuple[int, int] | None:
    """The least and most pixels of a picture that jaxconv.json records; None where the processor's files have them.

    Args:
        record: The document.
    """
    limits = (record or {}).get("pixels")
    if limits is None:
        return None
    if not isinstance(limits, list) or len(limits) != 2 or any(type(limit) is not int or limit < 1 for limit in limits):
        raise SourceError(f"jaxconv.json has pixels = {limits!r:.80}; expected the least and the most. Convert again.")
    return limits[0], limits[1]
