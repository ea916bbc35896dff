"""The score head: float32 rows on the pooled hidden state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxconv.models.decoder import Decoder


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
