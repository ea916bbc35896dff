"""The score head: float32 rows on the pooled hidden state."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxconv.errors import SourceError
from jaxconv.families import score_layer
from jaxconv.json_files import read_object
from jaxconv.models.attention import Prefix
from jaxconv.models.batching import Batcher, bucket
from jaxconv.models.decoder import Decoder, shared_prefix
from jaxconv.models.loading import load_decoder
from jaxconv.models.picture_tokens import PictureTokens
from jaxconv.models.prefixes import Group, prefix_groups
from jaxconv.models.token_ids import check_token_ids
from jaxconv.models.vision.prompts import load_tower, prompt_batches
from jaxconv.pictures import PictureArrays
from jaxconv.quantisation.reading import plain_classifier
from jaxconv.readers import open_checkpoint
from jaxconv.storage import original

T = TypeVar("T")


class Classifier(nnx.Module):
    """A decoder with `score.weight` [labels, D] and optionally `score.bias` [labels], both float32."""

    def __init__(self, decoder: Decoder, weight_CD: jax.Array, bias_C: jax.Array | None = None) -> None:
        self.decoder = decoder
        self.weight = nnx.Param(weight_CD)
        self.bias = None if bias_C is None else nnx.Param(bias_C)

    def __call__(
        self, ids_BT: jax.Array, mask_BT: jax.Array, pictures: PictureTokens | None = None, prefix: Prefix | None = None
    ) -> jax.Array:
        """Raw logits [B, labels] in float32."""
        hidden_BD = self.decoder.last(ids_BT, mask_BT, pictures, prefix)
        logits_BC = jnp.einsum("BD,CD->BC", hidden_BD, self.weight[...], precision="highest")
        return logits_BC if self.bias is None else logits_BC + self.bias[...]


@partial(jax.jit, static_argnums=0)
def _logits(
    graph: Any, state: Any, ids_BT: jax.Array, mask_BT: jax.Array, pictures: PictureTokens | None, prefix: Prefix | None
) -> jax.Array:
    logits: jax.Array = nnx.merge(graph, state)(ids_BT, mask_BT, pictures, prefix)
    return logits


class JaxClassifier:
    """The classifier of a directory as compiled JAX.

    Attributes:
        decoder: The backbone.
        vocabulary_size: The number of embedding rows.
        compile_seconds: The seconds that the first call of each shape took, including its run.
    """

    def __init__(
        self, directory: Path, device: jax.Device | None = None, dtype: str = "float32", mesh: jax.sharding.Mesh | None = None
    ) -> None:
        """Loads the classifier.

        Args:
            directory: A directory that `convert` wrote.
            device: Where the model runs without a mesh; JAX's default device if None.
            dtype: The dtype of the backbone.
            mesh: The devices that the backbone is sharded over.

        Raises:
            SourceError: The directory is damaged or does not hold a classifier.
            UsageError: The decoder does not run this model.
        """
        config = read_object(directory / "config.json", "the model's configuration")
        checkpoint = open_checkpoint(original(directory))
        layer = score_layer(checkpoint.tensors)
        weight, bias = (checkpoint.tensors.get(f"{layer}.{name}") for name in ("weight", "bias"))
        if weight is None:
            raise SourceError(f"{directory} has no score.weight; expected a converted classifier. Run jaxconv convert.")
        checkpoint, config = plain_classifier(checkpoint, config, directory)
        self.decoder = load_decoder(checkpoint, config, dtype=dtype, mesh=mesh, device=device)
        self._tower = cache(partial(load_tower, checkpoint, config, self.decoder, dtype))  # read with the first picture
        rows = [self.decoder.place(ref.read().astype(np.float32)) for ref in (weight, bias) if ref is not None]
        self.vocabulary_size = self.decoder.vocabulary_size
        self.compile_seconds = 0.0
        self._graph, self._state = nnx.split(Classifier(self.decoder, *rows))
        self._decoder = nnx.split(self.decoder)
        self._batchers: defaultdict[int, Batcher] = defaultdict(Batcher)  # by the padded length of the prefix
        self._compiled: set[tuple[int, ...]] = set()

    @property
    def compilations(self) -> int:
        """The number of shapes compiled (or fetched from the persistent cache) so far."""
        return len(self._compiled)

    def logits(self, token_ids: Sequence[Sequence[int]], pictures: Sequence[PictureArrays] = ()) -> list[list[float]]:
        """Raw logits [labels] of each sequence of `token_ids`, with its `pictures`, pooled at its last token."""
        check_token_ids(token_ids, self.vocabulary_size)
        rows: list[list[float]] = [[] for _ in token_ids]
        reusable = self.decoder.config.prefix_is_reusable and not any(pictures)
        whole = [Group(tuple(range(len(token_ids))), 0)]
        for group in prefix_groups(token_ids, self._batchers) if reusable else whole:
            prefix = self._prefix(token_ids[group.rows[0]][: group.length]) if group.length else None
            ends = [token_ids[row][group.length :] for row in group.rows]
            for row, scores in zip(group.rows, self._ends(ends, pictures, prefix), strict=True):
                rows[row] = scores
        return rows

    def _prefix(self, ids: Sequence[int]) -> Prefix:
        padded = np.zeros(bucket(len(ids)), np.int32)
        padded[: len(ids)] = ids
        arrays = self.decoder.place(padded), self.decoder.place(np.asarray(len(ids), np.int32))
        prefix: Prefix = self._run((len(padded),), shared_prefix, *self._decoder, *arrays)
        return prefix

    def _ends(
        self, token_ids: Sequence[Sequence[int]], pictures: Sequence[PictureArrays], prefix: Prefix | None
    ) -> list[list[float]]:
        """The scores of sequences that begin with `prefix`, by their other tokens."""
        rows: list[list[float]] = [[] for _ in token_ids]
        before = 0 if prefix is None else prefix.runs[0].keys.shape[1]
        for batch in prompt_batches(token_ids, pictures, self._tower, self.decoder, self._batchers[before]):
            shape = (*batch.ids_BT.shape, int(batch.tokens is not None), before)
            inputs = batch.ids_BT, batch.mask_BT, batch.tokens, prefix
            scores = np.asarray(self._run(shape, _logits, self._graph, self._state, *inputs))
            for row, score in zip(batch.rows, scores.tolist(), strict=False):  # further rows only fill the shape
                rows[row] = score
        return rows

    def _run(self, shape: tuple[int, ...], function: Callable[..., T], *arguments: Any) -> T:
        """The result of a compiled function, once it is there; the first call of a shape is counted and timed."""
        started = time.perf_counter()
        result: T = jax.block_until_ready(function(*arguments))  # type: ignore[no-untyped-call]
        if shape not in self._compiled:
            self._compiled.add(shape)
            self.compile_seconds += time.perf_counter() - started
        return result
