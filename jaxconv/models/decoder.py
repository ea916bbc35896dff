"""The decoder: one NNX layer whose arrays carry a leading layer axis, run with a scan over runs of equal layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from numpy.typing import NDArray

from jaxconv.checkpoint import Array
from jaxconv.models.attention import KeyValues, Prefix, visibility
from jaxconv.models.batching import Batcher
from jaxconv.models.config import DecoderConfig
from jaxconv.models.layer import Layer, rms_norm
from jaxconv.models.picture_tokens import PictureTokens
from jaxconv.models.rope import cos_sin
from jaxconv.models.token_ids import check_token_ids


class Decoder(nnx.Module):
    """A causal decoder up to its final norm. Build it with `jaxconv.models.loading.load_decoder`."""

    def __init__(
        self,
        config: DecoderConfig,
        embedding_VD: jax.Array,
        norm_D: jax.Array,
        runs: list[Layer],
        mesh: jax.sharding.Mesh | None = None,
    ) -> None:
        self.config = config
        self.embedding = nnx.Param(embedding_VD)
        self.norm = nnx.Param(norm_D)
        self.runs = nnx.List(runs)
        self.mesh = mesh

    def __call__(
        self, ids_BT: jax.Array, mask_BT: jax.Array, pictures: PictureTokens | None = None, prefix: Prefix | None = None
    ) -> jax.Array:
        """Final hidden states [B, T, D] in the weights' dtype. Padding, where the mask is 0, may lie on either side.

        Args:
            ids_BT: Token ids, integers; those of a prefix are left out.
            mask_BT: 1 for tokens, 0 for padding.
            pictures: The pictures of the batch; None if it has none.
            prefix: What `prefix` made of the tokens that all sequences begin with; None without such.
        """
        with jax.default_matmul_precision(precision(self.norm[...].dtype)):
            x_BTD, _ = self._layers(ids_BT, mask_BT.astype(bool), pictures, prefix, keep=False)
            return rms_norm(x_BTD, self.norm[...], self.config)

    def prefix(self, ids_P: jax.Array, length: jax.Array) -> Prefix:
        """What later batches need of the tokens that all their sequences begin with.

        Args:
            ids_P: Token ids, padded on the right.
            length: How many of them are tokens.
        """
        mask_BT = (jnp.arange(ids_P.shape[0]) < length)[None]
        with jax.default_matmul_precision(precision(self.norm[...].dtype)):
            _, runs = self._layers(ids_P[None], mask_BT, None, None, keep=True)
        return Prefix(tuple(KeyValues(run.keys[:, 0], run.values[:, 0]) for run in runs), length)

    def _layers(
        self, ids_BT: jax.Array, mask_BT: jax.Array, pictures: PictureTokens | None, prefix: Prefix | None, keep: bool
    ) -> tuple[jax.Array, list[Any]]:
        """Hidden states before the final norm and, to `keep`, keys and values [L, B, T, K, H] of each run of layers."""
        config = self.config
        x_BTD = self.embedding[...][ids_BT]
        if config.gemma:
            x_BTD = x_BTD * jnp.asarray(config.hidden_size**0.5, x_BTD.dtype)
        before = 0 if prefix is None else prefix.length
        positions = positions_BT = jnp.maximum(jnp.cumsum(mask_BT, axis=1) - 1, 0) + before
        if pictures is not None:
            positions = pictures.positions_BTF
            x_BTD = jnp.where(pictures.index_BT[..., None] > 0, pictures.layer(0, x_BTD.dtype), x_BTD)
        tables = [cos_sin(rope, positions, mask_BT.sum(axis=1) + before) for rope in config.ropes]
        cos_RBTF, sin_RBTF = (jnp.stack(kind) for kind in zip(*tables, strict=True))
        visible = visibility(mask_BT, positions_BT, prefix)
        start, kept = 0, list[Any]()
        for number, run in enumerate(self.runs):
            graph, state = nnx.split(run)
            stop = start + jax.tree.leaves(state)[0].shape[0]
            per_layer = (
                state,
                jnp.asarray(config.windows[start:stop], jnp.int32),
                jnp.asarray(config.rope_of_layer[start:stop], jnp.int32),
                jnp.arange(start + 1, stop + 1, dtype=jnp.int32),
                None if prefix is None else prefix.runs[number],
            )

            def step(x: jax.Array, layer: Any, graph: Any = graph) -> tuple[jax.Array, KeyValues | None]:
                weights, window, rope, number, past = layer
                x, key_values = nnx.merge(graph, weights)(x, visible.within(window), (cos_RBTF[rope], sin_RBTF[rope]), past)
                x = x if pictures is None else x + pictures.layer(number, x.dtype)
                return x, (key_values if keep else None)

            x_BTD, key_values = jax.lax.scan(step, x_BTD, per_layer)
            kept.append(key_values)
            start = stop
        return x_BTD, kept

    def last(
        self, ids_BT: jax.Array, mask_BT: jax.Array, pictures: PictureTokens | None = None, prefix: Prefix | None = None
    ) -> jax.Array:
        """Hidden state of each sequence's last real token: what vLLM pools.

        Args:
            ids_BT: Token ids, integers, padded on either side; those of a prefix are left out.
            mask_BT: 1 for tokens, 0 for padding.
            pictures: The pictures of the batch; None if it has none.
            prefix: What `prefix` made of the tokens that all sequences begin with; None without such.

        Returns:
            float32 [B, hidden_size].
        """
        x_BTD = self(ids_BT, mask_BT, pictures, prefix)
        steps = jnp.arange(ids_BT.shape[1])
        last_B = jnp.max(jnp.where(mask_BT.astype(bool), steps, 0), axis=1)
        return jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)[:, 0].astype(jnp.float32)

    @property
    def vocabulary_size(self) -> int:
        """The number of embedding rows; a padded vocabulary has more than config.json says."""
        return int(self.embedding[...].shape[0])

    def hidden_last(self, token_ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Final hidden states at the last token of each sequence.

        Sequences of different lengths are bucketed, padded on the right and compiled once per shape.

        Args:
            token_ids: The token ids of each sequence, without padding.

        Returns:
            float32 [len(token_ids), hidden_size], in the order of the sequences.

        Raises:
            UsageError: A sequence is empty, or a token id has no embedding row.
        """
        check_token_ids(token_ids, self.vocabulary_size)
        graph, state = nnx.split(self)
        result = np.zeros((len(token_ids), self.config.hidden_size), np.float32)
        for batch in Batcher().batches(token_ids):
            hidden = last_hidden(graph, state, self.place(batch.ids), self.place(batch.mask))
            result[list(batch.rows)] = np.asarray(hidden)[: len(batch.rows)]
        return result

    def place(self, array: Array) -> jax.Array:
        """Copies a host array to the devices that hold the weights, whole on each."""
        sharding: jax.sharding.Sharding | jax.Device
        if self.mesh is not None:
            sharding = NamedSharding(self.mesh, PartitionSpec())  # type: ignore[no-untyped-call]
        else:
            sharding = next(iter(self.norm[...].devices()))
        placed: jax.Array = jax.device_put(array, sharding)
        return placed


def precision(dtype: Any) -> str:
    """The precision of matrix products whose operands are of `dtype`, as JAX names it.

    float32 means float32 (a GPU or TPU would otherwise round its inputs); lower dtypes take the device's own.
    """
    return "highest" if dtype == jnp.float32 else "default"


@partial(jax.jit, static_argnums=0)
def last_hidden(
    graph: Any, state: Any, ids_BT: jax.Array, mask_BT: jax.Array, pictures: PictureTokens | None = None
) -> jax.Array:
    """Compiled `Decoder.last` of a split decoder.

    Args:
        graph: The decoder's graph definition, from `nnx.split`; static.
        state: Its parameters, from the same split.
        ids_BT: Token ids, integers, padded on either side.
        mask_BT: 1 for tokens, 0 for padding.
        pictures: The pictures of the batch; None if it has none.

    Returns:
        float32 [B, hidden_size].
    """
    hidden_BD: jax.Array = nnx.merge(graph, state).last(ids_BT, mask_BT, pictures)
    return hidden_BD


@partial(jax.jit, static_argnums=0)
def shared_prefix(graph: Any, state: Any, ids_P: jax.Array, length: jax.Array) -> Prefix:
    """Compiled `Decoder.prefix` of a split decoder.

    Args:
        graph: The decoder's graph definition, from `nnx.split`; static.
        state: Its parameters, from the same split.
        ids_P: Token ids, padded on the right.
        length: How many of them are tokens.
    """
    prefix: Prefix = nnx.merge(graph, state).prefix(ids_P, length)
    return prefix
