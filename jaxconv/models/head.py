"""The score head: float32 rows on the pooled hidden state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxconv.errors import SourceError
from jaxconv.families import score_layer
from jaxconv.json_files import read_object
from jaxconv.models.batching import Batcher
from jaxconv.models.decoder import Decoder
from jaxconv.models.loading import load_decoder
from jaxconv.models.picture_tokens import PictureTokens
from jaxconv.models.token_ids import check_token_ids
from jaxconv.models.vision.prompts import load_tower, prompt_batches
from jaxconv.pictures import PictureArrays
from jaxconv.quantisation.reading import plain_classifier
from jaxconv.readers import open_checkpoint
from jaxconv.storage import original


class Classifier(nnx.Module):
    """A decoder with `score.weight` [labels, D] and optionally `score.bias` [labels], both float32."""

    def __init__(self, decoder: Decoder, weight_CD: jax.Array, bias_C: jax.Array | None = None) -> None:
        self.decoder = decoder
        self.weight = nnx.Param(weight_CD)
        self.bias = None if bias_C is None else nnx.Param(bias_C)

    def __call__(self, ids_BT: jax.Array, mask_BT: jax.Array, pictures: PictureTokens | None = None) -> jax.Array:
        """Raw logits [B, labels] in float32."""
        hidden_BD = self.decoder.last(ids_BT, mask_BT, pictures)
        logits_BC = jnp.einsum("BD,CD->BC", hidden_BD, self.weight[...], precision="highest")
        return logits_BC if self.bias is None else logits_BC + self.bias[...]


@partial(jax.jit, static_argnums=0)
def _logits(
    graph: Any, state: Any, ids_BT: jax.Array, mask_BT: jax.Array, pictures: PictureTokens | None = None
) -> jax.Array:
    logits: jax.Array = nnx.merge(graph, state)(ids_BT, mask_BT, pictures)
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
        self._batcher = Batcher()
        self._compiled: set[tuple[int, ...]] = set()

    @property
    def compilations(self) -> int:
        """The number of shapes compiled (or fetched from the persistent cache) so far."""
        return len(self._compiled)

    def logits(self, token_ids: Sequence[Sequence[int]], pictures: Sequence[PictureArrays] = ()) -> list[list[float]]:
        """Raw logits [labels] of each sequence of `token_ids`, with its `pictures`, pooled at its last token."""
        check_token_ids(token_ids, self.vocabulary_size)
        rows: list[list[float]] = [[] for _ in token_ids]
        for batch in prompt_batches(token_ids, pictures, self._tower, self.decoder, self._batcher):
            started = time.perf_counter()
            scores = np.asarray(_logits(self._graph, self._state, batch.ids_BT, batch.mask_BT, batch.tokens))
            shape = (*batch.ids_BT.shape, int(batch.tokens is not None))
            if shape not in self._compiled:
                self._compiled.add(shape)
                self.compile_seconds += time.perf_counter() - started
            for row, score in zip(batch.rows, scores.tolist(), strict=False):  # further rows only fill the shape
                rows[row] = score
        return rows
