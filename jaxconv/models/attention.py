"""Attention of a batch's tokens to themselves and, where their prompts begin alike, to the keys of that beginning."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LOWEST = float(np.finfo(np.float32).min)


class KeyValues(NamedTuple):
    """Rotated keys, and values: [B, S, K, H] of a batch, [P, K, H] of a prefix, [L, P, K, H] of one for L layers."""

    keys: jax.Array
    values: jax.Array


class Prefix(NamedTuple):
    """What a decoder keeps of the tokens that all sequences of a batch begin with.

    Attributes:
        runs: Keys and values of each run of layers, [L, P, K, H]; P is padded.
        length: The number of tokens, an integer.
    """

    runs: tuple[KeyValues, ...]
    length: jax.Array


class Visibility(NamedTuple):
    """Which keys a query sees: both masks hold for full attention, and the distances narrow them to a window.

    Attributes:
        mask_BTS: Causal, without padding, among the batch's own tokens.
        distance_TS: How many places a query stands after a key of the batch.
        mask_BTP: Which tokens of the prefix exist; None without a prefix.
        distance_BTP: How many places a query stands after a key of the prefix; None without a prefix.
    """

    mask_BTS: jax.Array
    distance_TS: jax.Array
    mask_BTP: jax.Array | None = None
    distance_BTP: jax.Array | None = None

    def within(self, window: int | jax.Array) -> jax.Array:
        """The mask [B, T, P + S] of a layer whose queries see `window` places, their own included."""
        batch_BTS = self.mask_BTS & (self.distance_TS < window)
        if self.mask_BTP is None or self.distance_BTP is None:
            return batch_BTS
        return jnp.concatenate([self.mask_BTP & (self.distance_BTP < window), batch_BTS], axis=2)


def visibility(mask_BT: jax.Array, positions_BT: jax.Array, prefix: Prefix | None) -> Visibility:
    """The masks of a padded batch.

    Args:
        mask_BT: True for tokens, False for padding, which may lie on either side.
        positions_BT: The position of each token in its whole sequence, that of the prefix included.
        prefix: What the sequences begin with, if it is not in the batch.
    """
    steps = jnp.arange(mask_BT.shape[1])
    distance_TS = steps[:, None] - steps[None, :]
    causal_BTS = (distance_TS >= 0) & mask_BT[:, None, :]
    if prefix is None:
        return Visibility(causal_BTS, distance_TS)
    places_P = jnp.arange(prefix.runs[0].keys.shape[1])
    distance_BTP = positions_BT[..., None] - places_P
    return Visibility(causal_BTS, distance_TS, jnp.broadcast_to(places_P < prefix.length, distance_BTP.shape), distance_BTP)


def attention(
    q_BTNH: jax.Array, key_values: KeyValues, prefix: KeyValues | None, mask_BTS: jax.Array,
    scale: float, softcap: float | None,
) -> jax.Array:  # fmt: skip
    """Attention of N heads in K groups.

    The prefix's keys are multiplied as one matrix for the whole batch and are never copied for each sequence.

    Args:
        q_BTNH: Rotated queries.
        key_values: Rotated keys and values of the batch's own tokens, [B, S, K, H] each.
        prefix: Those of the shared prefix, [P, K, H] each; None without one.
        mask_BTS: Where a query sees a key; the prefix's keys come first.
        scale: What products of queries and keys are multiplied by.
        softcap: The bound of Gemma 2's logits; None without one.

    Returns:
        An array of the shape and dtype of `q_BTNH`.
    """
    keys_BSKH, values_BSKH = key_values
    if prefix is None and softcap is None:
        return jax.nn.dot_product_attention(q_BTNH, keys_BSKH, values_BSKH, mask=mask_BTS[:, None], scale=scale)
    B, T, N, H = q_BTNH.shape
    K = keys_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    logits_BKGTS = _products("BTKGH,BSKH->BKGTS", q_BTKGH, keys_BSKH, softcap)
    if prefix is not None:
        logits_BKGTP = _products("BTKGH,PKH->BKGTP", q_BTKGH, prefix.keys, softcap)
        logits_BKGTS = jnp.concatenate([logits_BKGTP, logits_BKGTS], axis=-1)
    logits_BKGTS = logits_BKGTS * scale
    if softcap is not None:
        logits_BKGTS = (jnp.tanh(logits_BKGTS / softcap) * softcap).astype(jnp.float32)
    logits_BKGTS = jnp.where(mask_BTS[:, None, None], logits_BKGTS, LOWEST)
    shares_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1).astype(values_BSKH.dtype)
    P = 0 if prefix is None else prefix.keys.shape[0]
    out_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", shares_BKGTS[..., P:], values_BSKH)
    if prefix is not None:
        out_BTKGH = out_BTKGH + jnp.einsum("BKGTP,PKH->BTKGH", shares_BKGTS[..., :P], prefix.values)
    return out_BTKGH.reshape(B, T, N, H)


def _products(equation: str, queries: jax.Array, keys: jax.Array, softcap: float | None) -> jax.Array:
    """Queries times keys; in float32 unless they are capped, which transformers does in the model's dtype."""
    return jnp.einsum(equation, queries, keys, preferred_element_type=jnp.float32 if softcap is None else None)
