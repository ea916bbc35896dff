"""Scores with a converted directory alone: prompt, token ids, raw logits from a backend, activation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxconv.activation import activate
from jaxconv.arguments import checked
from jaxconv.backends import Classifier, DeviceMesh, check_dtype, get_backend, pictures_unsupported
from jaxconv.errors import SourceError, UsageError
from jaxconv.families import text_config
from jaxconv.json_files import JsonObject, Unchecked, read_object, read_optional_object
from jaxconv.pictures import EncodedPrompt, PictureAccess, PictureArrays, SideEncoder, SideLike, SideText, side_of
from jaxconv.sources.remote import small_files
from jaxconv.storage import is_address
from jaxconv.text.encoding import folder_encoder
from jaxconv.text.prompt import TEMPLATE_NAME

OUTPUT_FILES = (TEMPLATE_NAME, "jaxconv.json")  # of an output, beside what a source has
PICTURED = 16  # pairs whose pictures are in memory at a time
DEFAULT_LENGTH = 32768  # of a prompt in tokens, if config.json has no max_position_embeddings


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document of a ranking.

    Attributes:
        index: Its position among the documents that were given.
        score: Its score.
        document: The document as it was given.
    """

    index: int
    score: float
    document: Unchecked


@checked
def load(
    directory: str | Path,
    backend: str = "auto",
    device: str = "auto",
    dtype: str = "float32",
    mesh: DeviceMesh | None = None,
    allow_remote_images: bool = False,
    pictures: bool = False,
) -> Scorer:
    """Loads a converted directory for scoring.

    Args:
        directory: A directory that `convert` wrote, or its address; weights are then read by ranges.
        backend: "jax", "torch", or "auto": JAX if it is installed and runs the model, else PyTorch.
        device: "cpu", "gpu", "tpu", or "auto": an accelerator if the framework has one, else the CPU.
        dtype: The dtype of the backbone: "float32", "bfloat16" or "float16". The score head is float32 in any case.
        mesh: A `jax.sharding.Mesh`; the backbone is sharded over its last axis (JAX only).
        allow_remote_images: Fetch pictures from http and https addresses.
        pictures: Take a backend that scores pictures; "auto" takes the first one that does.

    Returns:
        The model, ready to score.

    Raises:
        BackendUnavailable: The backend or device is unknown or not installed.
        SourceError: The directory is damaged, or is not a converted classifier.
        UsageError: The backend cannot run the model, or an argument has a wrong value.

    Example:
        >>> model = jaxconv.load("out", backend="jax")
        >>> model.score("capital of France?", ["Paris is the capital.", "Cats sleep."])
        [0.98, 0.03]
    """
    check_dtype(dtype)
    path = small_files(str(directory), OUTPUT_FILES) if is_address(directory) else Path(directory).expanduser()
    template = (TEMPLATE_NAME,) if (path / "jaxconv.json").is_file() else ()  # other classifiers may have none
    for name in ("config.json", "tokenizer.json", *template):
        if not (path / name).is_file():
            raise SourceError(f"{path} has no {name}; expected a directory that jaxconv convert wrote.")
    config = read_object(path / "config.json", "the model's configuration")
    opened = get_backend(backend, device, config=config, pictures=pictures)
    access = PictureAccess(remote=allow_remote_images)
    return Scorer(path, opened.classifier(path, dtype=dtype, mesh=mesh), opened.name, access)


class Scorer:
    """Scores (query, document) pairs with a converted directory. Build it with `jaxconv.load`.

    Attributes:
        directory: The directory.
        config: Its config.json.
        backend: The name of the backend.
        classifier: The model in memory.
        encoder: Renders and tokenises pairs.
    """

    def __init__(
        self, directory: Path, classifier: Classifier, backend: str, access: PictureAccess = PictureAccess()
    ) -> None:
        """Reads config, tokenizer and template. `access` says where pictures may come from.

        Raises:
            SourceError: One of these files is missing or damaged.
        """
        self.directory, self.classifier, self.backend, self.access = directory, classifier, backend, access
        self.config: JsonObject = read_object(directory / "config.json", "the model's configuration")
        texts = folder_encoder(directory, _max_length(directory, self.config), classifier.vocabulary_size)
        self.encoder = SideEncoder(texts, directory, self.config, read_optional_object(directory / "jaxconv.json"))

    def __repr__(self) -> str:
        return f"Scorer({str(self.directory)!r}, backend={self.backend!r})"

    @property
    def max_length(self) -> int:
        """The longest prompt in tokens; longer documents are cut."""
        return self.encoder.texts.max_length

    @property
    def compilations(self) -> int:
        """The number of input shapes compiled so far; 0 with PyTorch."""
        return self.classifier.compilations

    @property
    def compile_seconds(self) -> float:
        """The seconds that the first call of each compiled shape took, including its run."""
        return self.classifier.compile_seconds

    @checked
    def score(
        self, query: SideLike, documents: Sequence[SideLike], raw: bool = False, instruction: str | None = None
    ) -> list[float]:
        """Scores documents for one query.

        Args:
            query: The query: a text, or {"image": path or URL, "text": …} for a model that reads pictures.
            documents: The documents, likewise.
            raw: Return logits instead of applying the activation that config.json records.
            instruction: Replaces the default instruction of the template.

        Returns:
            One score per document, in the order of the documents.

        Raises:
            UsageError: The model has several labels (see `logits`), the query alone is too long, a picture cannot be read,
                or the backend scores none.

        Example:
            >>> model.score("capital of France?", ["Paris is the capital.", "Cats sleep."])
            [0.98, 0.03]
        """
        return self.score_pairs([(query, document) for document in documents], raw, instruction)

    @checked
    def rank(
        self,
        query: SideLike,
        documents: Sequence[SideLike],
        top_k: int | None = None,
        raw: bool = False,
        instruction: str | None = None,
    ) -> list[Ranked]:
        """Sorts documents by their score for one query, best first; equal scores keep their order.

        Args:
            query: The query.
            documents: The documents.
            top_k: Return only this many documents; None for all.
            raw: Return logits instead of applying the activation.
            instruction: Replaces the default instruction of the template.

        Raises:
            UsageError: As for `score`, or `top_k` is negative.

        Example:
            >>> model.rank("capital of France?", ["Cats sleep.", "Paris is the capital."], top_k=1)
            [Ranked(index=1, score=0.98, document='Paris is the capital.')]
        """
        if top_k is not None and top_k < 0:
            raise UsageError(f"rank: top_k is {top_k}; expected None, or the number of documents to return.")
        scores = self.score(query, documents, raw, instruction)
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[:top_k]
        return [Ranked(index, scores[index], documents[index]) for index in order]

    @checked
    def score_pairs(
        self, pairs: Sequence[tuple[SideLike, SideLike]], raw: bool = False, instruction: str | None = None
    ) -> list[float]:
        """Scores (query, document) pairs.

        Args:
            pairs: The pairs.
            raw: Return logits instead of applying the activation.
            instruction: Replaces the default instruction of the template.

        Returns:
            One score per pair, in the order of the pairs.

        Raises:
            UsageError: As for `score`.
        """
        rows = self.logits(pairs, instruction)
        if rows and len(rows[0]) != 1:
            raise UsageError(f"{self.directory} has {len(rows[0])} labels, not one score; use Scorer.logits.")
        return [row[0] if raw else activate(self.config, row)[0] for row in rows]

    @checked
    def logits(self, pairs: Sequence[tuple[SideLike, SideLike]], instruction: str | None = None) -> list[list[float]]:
        """Raw logits of (query, document) pairs.

        Args:
            pairs: The pairs.
            instruction: Replaces the default instruction of the template.

        Returns:
            For each pair, one logit per label.

        Raises:
            UsageError: A query alone is too long, a picture cannot be read, the backend scores none, or the tokenizer gives
                a token that the model has no embedding for.
        """
        step = PICTURED if any(not isinstance(side, str) for pair in pairs for side in pair) else max(len(pairs), 1)
        rows: list[list[float]] = []
        for start in range(0, len(pairs), step):
            prompts = [
                self.encode_sides(self._side(query, "query"), self._side(document, f"document {number}"), instruction)
                for number, (query, document) in enumerate(pairs[start : start + step], start)
            ]
            pictures = [prompt.pictures for prompt in prompts] if any(prompt.pictures for prompt in prompts) else []
            rows += self.token_logits([prompt.ids for prompt in prompts], pictures)
        return rows

    def token_logits(self, token_ids: Sequence[Sequence[int]], pictures: Sequence[PictureArrays] = ()) -> list[list[float]]:
        """Raw logits of prompts that are token ids already.

        Args:
            token_ids: The token ids of each prompt, without padding.
            pictures: The numbers of the pictures of each prompt; empty if no prompt has a picture.

        Returns:
            For each prompt, one logit per label.

        Raises:
            UsageError: A prompt is empty, or has a token that the model has no embedding for.
        """
        rows = self.classifier.vocabulary_size
        for ids in token_ids:
            if ids and max(ids) >= rows:
                token = self.encoder.texts.vocabulary.piece(max(ids))
                raise UsageError(
                    f"the prompt has the token {token!r} (id {max(ids)}), but the model has embeddings for the ids 0 to "
                    f"{rows - 1} only. Use the tokenizer that the model was trained with, or leave that text out."
                )
        return self.classifier.logits(token_ids, pictures)

    @checked
    def encode(self, query: SideLike, document: SideLike, instruction: str | None = None) -> list[int]:
        """The token ids of a prompt, with the special tokens that vLLM adds.

        If the prompt is too long, the end of the document is cut, never the end of the prompt, where the score is read.

        Args:
            query: The query.
            document: The document.
            instruction: Replaces the default instruction of the template.

        Raises:
            UsageError: The prompt is too long even with an empty document.
        """
        return self.encode_sides(self._side(query, "query"), self._side(document, "document"), instruction).ids

    def encode_sides(self, query: SideText, document: SideText, instruction: str | None = None) -> EncodedPrompt:
        """The prompt of a pair whose pictures are read.

        Args:
            query: The query.
            document: The document.
            instruction: Replaces the default instruction of the template.

        Raises:
            UsageError: As for `logits`.
        """
        if not (isinstance(query, str) and isinstance(document, str)):
            reason = pictures_unsupported(self.backend, self.config)
            if reason is not None:
                raise UsageError(reason)
        return self.encoder.encode(query, document, instruction)

    def _side(self, value: SideLike, where: str) -> SideText:
        return side_of(value, self.access, where)


def _max_length(directory: Path, config: JsonObject) -> int:
    """The longest prompt in tokens: the smallest limit of the model, the tokenizer and the preset."""
    limits = [text_config(config).get("max_position_embeddings") or DEFAULT_LENGTH]
    for name, key in (("tokenizer_config.json", "model_max_length"), ("jaxconv.json", "max_length")):
        limits.append((read_optional_object(directory / name) or {}).get(key))
    return int(min(limit for limit in [*limits, sys.maxsize] if isinstance(limit, int | float) and limit >= 1))
