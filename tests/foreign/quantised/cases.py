"""Opens the committed checkpoints of quantisation libraries."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxconv.checkpoint import Checkpoint
from jaxconv.families import family_for
from jaxconv.families.parameter import Parameter
from jaxconv.quantisation import Quantised, Source, companion_names, open_quantisation
from jaxconv.readers import open_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def names() -> list[str]:
    """All fixtures, as library/case."""
    return sorted(str(path.relative_to(FIXTURES)).removesuffix(".tar.xz") for path in FIXTURES.glob("*/*.tar.xz"))


@cache
def about(name: str) -> dict[str, Any]:
    """What a fixture says of itself, read without unpacking the rest."""
    with tarfile.open(FIXTURES / f"{name}.tar.xz") as archive:
        member = archive.extractfile("case.json")
        assert member is not None
        facts: dict[str, Any] = json.load(member)
        return facts


def refused() -> list[str]:
    """The fixtures that no output could come of."""
    return [name for name in names() if "refused" in about(name)]


def readable() -> list[str]:
    """All others."""
    return [name for name in names() if "refused" not in about(name)]


@dataclass(frozen=True)
class Case:
    """One unpacked fixture."""

    about: dict[str, Any]
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """config.json."""
        content: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return content

    @property
    def checkpoint(self) -> Checkpoint:
        """References to all tensors."""
        return open_checkpoint(self.folder)

    @property
    def source(self) -> Source:
        """What a scheme may look at."""
        checkpoint = self.checkpoint
        present = [self.folder / name for name in sorted(companion_names()) if (self.folder / name).exists()]
        companions = {path.name: json.loads(path.read_text()) for path in present}
        return Source(checkpoint.tensors, checkpoint.metadata, companions)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Every parameter of the plain model but the head."""
        return parameters(self.config)

    def open(self) -> Quantised:
        """How the checkpoint is quantised."""
        quantised = open_quantisation(self.config, self.source)
        assert quantised is not None
        return quantised


def parameters(config: dict[str, Any]) -> dict[str, Parameter]:
    """Every parameter of a plain model but the head, with its kind."""
    return dict(family_for({"model_type": config["model_type"]}).parameters(config))


def unpack(name: str, folder: Path) -> Case:
    """Unpacks a fixture."""
    with tarfile.open(FIXTURES / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return Case(about(name), folder / "checkpoint")


def equals_record(weight: np.ndarray[Any, Any], record: dict[str, Any]) -> bool:
    """Whether a weight is bit for bit the recorded one, once it is rounded to the dtype that the library gave."""
    data = np.ascontiguousarray(weight.astype(DTYPES[record["dtype"]]))
    return list(data.shape) == record["shape"] and hashlib.sha256(data.tobytes()).hexdigest() == record["sha256"]
