"""The score head: float32 rows on the pooled hidden state."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxconv.errors import BackendUnavailable, SourceError
from jaxconv.json_files import read_object
from jaxconv.models.batching import batches
from jaxconv.models.decoder import Decoder, precision
from jaxconv.models.loading import load_decoder
from jaxconv.readers import open_checkpoint


class Classifier(nnx.Module):
    """A decoder with `score.weight` [labels, D] and optionally `score.bias` [labels], both float32."""

    def __init__(self, decoder: Decoder, weight_CD: jax.Array, bias_C: jax.Array | None = None) -> None:
        self.decoder = decoder
        self.weight = nnx.Param(weight_CD)
        self.bias = None if bias_C is None else nnx.Param(bias_C)

    def __call__(self, ids_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
        """Raw logits [B, labels] in float32."""
        hidden_BD = self.decoder.last(ids_BT, mask_BT)
        logits_BC = jnp.einsum("BD,CD->BC", hidden_BD, self.weight[...], precision="highest")
        return logits_BC if self.bias is None else logits_BC + self.bias[...]


@partial(jax.jit, static_argnums=0)
def _logits(graph: Any, state: Any, ids_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    classifier = nnx.merge(graph, state)
    with jax.default_matmul_precision(precision(classifier.decoder.norm[...].dtype)):
        logits: jax.Array = classifier(ids_BT, mask_BT)
        return logits


class JaxClassifier:
    """A converted folder as compiled JAX: `logits(token_ids)` gives float32 rows [labels] in order.

    `compilations` counts the shapes compiled so far, `compile_seconds` what their first calls took.
    """

    def __init__(self, folder: Path, device: str = "auto", dtype: str = "float32", mesh: Any = None) -> None:
        checkpoint = open_checkpoint(folder)
        config = read_object(folder / "config.json", "the model's configuration")
        weight = checkpoint.tensors.get("score.weight")
        if weight is None:
            raise SourceError(f"{folder} has no score.weight; expected a converted classifier. Run jaxconv convert.")
        try:
            target = jax.devices(None if device == "auto" else device)[0]
        except RuntimeError as error:
            raise BackendUnavailable(f"JAX has no device {device!r} ({error}). Use --device auto.") from None
        self.decoder = load_decoder(checkpoint, config, dtype=dtype, mesh=mesh, device=target)
        bias = checkpoint.tensors.get("score.bias")
        rows = [self.decoder.place(ref.read().astype(np.float32)) for ref in (weight, bias) if ref is not None]
        self._graph, self._state = nnx.split(Classifier(self.decoder, *rows))
        self._shapes: set[tuple[int, ...]] = set()
        self.compile_seconds = 0.0

    @property
    def compilations(self) -> int:
        """How many shapes have been compiled (or fetched from the persistent cache)."""
        return len(self._shapes)

    def logits(self, token_ids: list[list[int]]) -> list[list[float]]:
        """Raw logits [labels] of each sequence, pooled at its last token."""
        rows: list[list[float]] = [[] for _ in token_ids]
        for batch in batches(token_ids):
            started = time.perf_counter()
            place = self.decoder.place
            scores = np.asarray(_logits(self._graph, self._state, place(batch.ids), place(batch.mask)))
            if batch.ids.shape not in self._shapes:
                self._shapes.add(batch.ids.shape)
                self.compile_seconds += time.perf_counter() - started
            for row, score in zip(batch.rows, scores.tolist(), strict=False):  # the rest of scores is filling
                rows[row] = score
        return rows
