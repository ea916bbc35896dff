"""What a decoder is given of the pictures in a batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class PictureTokens(NamedTuple):
    """The pictures of a batch.

    Attributes:
        features_KND: Features of picture tokens. The first of K replace embeddings, the k-th are added to the hidden states
            after layer k. Row 0 of N is zero, for tokens of text.
        index_BT: The row of N of each token.
        positions_BTF: The position that each frequency of the rotations follows.
    """

    features_KND: jax.Array
    index_BT: jax.Array
    positions_BTF: jax.Array

    def layer(self, number: int | jax.Array, dtype: Any) -> jax.Array:
        """What tokens get of pictures before the first layer (0) or after layer `number`, [B, T, D] in `dtype`."""
        count = self.features_KND.shape[0]
        features_ND = self.features_KND[jnp.minimum(number, count - 1)]
        return jnp.where(number < count, features_ND[self.index_BT], 0).astype(dtype)
