"""Scores with a converted folder alone: prompt, tokens, raw logits through JAX or PyTorch, activation."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxconv.activation import activate
from jaxconv.encoding import folder_encoder
from jaxconv.errors import BackendUnavailable, SourceError, UsageError
from jaxconv.families import text_config
from jaxconv.json_files import read_object, read_optional_object

INSTALL = {"jax": "pip install 'jaxconv[jax]'", "torch": "pip install 'jaxconv[torch]'"}
NEEDS = {"jax": ("jax", "flax"), "torch": ("torch", "transformers")}


class Logits(Protocol):
    """What a backend does: raw logits [labels] of each sequence, in order."""

    def logits(self, token_ids: list[list[int]]) -> list[list[float]]:
        """Raw logits [labels] of each sequence."""
        ...


def load(path: Path | str, backend: str = "auto", mesh: Any = None, device: str = "auto", dtype: str | None = None) -> Scorer:
    """A converted folder, ready to score. `dtype` is the backbone's (default float32), never the head's.

    Raises `BackendUnavailable` for a backend that is unknown or missing, `SourceError` for a folder that is no
    converted classifier, `UsageError` for a family that the JAX model lacks.
    """
    folder = Path(path)
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise SourceError(f"{folder} has no {name}; expected a folder that jaxconv convert wrote.")
    chosen = choose_backend(backend, read_object(folder / "config.json", "the model's configuration"))
    if chosen == "jax":
        from jaxconv.models.head import JaxClassifier

        model: Logits = JaxClassifier(folder, device, dtype or "float32", mesh)
    else:
        if mesh is not None:
            raise UsageError("mesh is for the JAX backend; the torch backend runs on one device.")
        from torch_backend.scorer import TorchClassifier

        place = {"auto": "cpu", "gpu": "cuda"}.get(device, device)
        model = TorchClassifier(folder, place, dtype or "float32")
    return Scorer(folder, model, chosen)


def choose_backend(name: str, config: Mapping[str, Any]) -> str:
    """What runs a model: `auto` is JAX where it is installed and its decoder runs the config, else PyTorch.

    Raises `BackendUnavailable` for a backend that is unknown or not installed, with the pip command.
    """
    if name not in ("auto", *NEEDS):
        raise BackendUnavailable(f"No scoring backend {name!r}; expected auto, {', '.join(NEEDS)}.")
    wanted = NEEDS if name == "auto" else (name,)
    installed = [key for key in wanted if all(importlib.util.find_spec(need) for need in NEEDS[key])]
    if not installed:
        first = next(iter(wanted))
        raise BackendUnavailable(f"The {' or '.join(wanted)} backend is not installed. Run: {INSTALL[first]}")
    return "torch" if installed == ["jax", "torch"] and not _jax_runs(config) else installed[0]


def _jax_runs(config: Mapping[str, Any]) -> bool:
    from jaxconv.models.config import decoder_config

    try:
        decoder_config(config)
    except UsageError:
        return False
    return True


class Scorer:
    """Scores of (query, document) pairs. Build it with `jaxconv.load`."""

    def __init__(self, folder: Path, model: Logits, backend: str) -> None:
        self.model, self.backend, self.folder = model, backend, folder
        self.config: dict[str, Any] = read_object(folder / "config.json", "the model's configuration")
        self.encoder = folder_encoder(folder, _max_length(folder, self.config), _rows(self.config))

    @property
    def max_length(self) -> int:
        """The most tokens that a prompt may have."""
        return self.encoder.max_length

    @property
    def compilations(self) -> int:
        """How many shapes JAX has compiled so far; 0 with PyTorch."""
        return int(getattr(self.model, "compilations", 0))

    @property
    def compile_seconds(self) -> float:
        """What the first calls of those shapes took, compilation and all."""
        return float(getattr(self.model, "compile_seconds", 0.0))

    def score(self, query: str, documents: Sequence[str], raw: bool = False, instruction: str | None = None) -> list[float]:
        """One score per document, in order. `raw` leaves the activation out."""
        return self.score_pairs([(query, document) for document in documents], raw, instruction)

    def score_pairs(self, pairs: Sequence[tuple[str, str]], raw: bool = False, instruction: str | None = None) -> list[float]:
        """One score per (query, document). Raises `UsageError` for a model with several labels: see `logits`."""
        rows = self.logits(pairs, instruction)
        if rows and len(rows[0]) != 1:
            raise UsageError(f"{self.folder} has {len(rows[0])} labels, so no one score ranks; use Scorer.logits.")
        return [row[0] if raw else activate(self.config, row)[0] for row in rows]

    def logits(self, pairs: Sequence[tuple[str, str]], instruction: str | None = None) -> list[list[float]]:
        """Raw logits [labels] of each (query, document)."""
        return self.model.logits([self.encode(query, document, instruction) for query, document in pairs])

    def encode(self, query: str, document: str, instruction: str | None = None) -> list[int]:
        """Token ids of the prompt, special tokens added as vLLM adds them.

        A prompt that is too long loses the end of its document, never the template's suffix, which the score
        is read after. Raises `UsageError` when even an empty document does not fit.
        """
        return self.encoder.encode(query, document, instruction).ids


def _rows(config: Mapping[str, Any]) -> int | None:
    """How many tokens the model has an embedding of."""
    rows = text_config(config).get("vocab_size")
    return rows if isinstance(rows, int) else None


def _max_length(folder: Path, config: Mapping[str, Any]) -> int:
    """The longest prompt in tokens: the model's positions, the tokenizer's limit, what the authors' code lets through."""
    limits = [config.get("max_position_embeddings") or 32768]
    for name, key in (("tokenizer_config.json", "model_max_length"), ("jaxconv.json", "max_length")):
        limits.append((read_optional_object(folder / name) or {}).get(key) or limits[0])
    return int(min(limits))
