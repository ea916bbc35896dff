"""One decoder layer: norms, attention, and a feed-forward block of one network or of experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxconv.models.attention import KeyValues, attention
from jaxconv.models.config import DecoderConfig
from jaxconv.models.rope import rotate

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
}
Arrays = Mapping[str, jax.Array]


def rms_norm(x: jax.Array, weight: jax.Array, config: DecoderConfig) -> jax.Array:
    """RMS norm over the last axis, computed in float32; Gemma stores weight - 1 and scales before rounding.

    Args:
        x: Features [..., F], of any floating-point dtype.
        weight: The norm's weight [F], as it is stored.
        config: The model's config, which gives epsilon and whether it is a Gemma.

    Returns:
        An array of the shape of `x`, and of its dtype if `weight` has that dtype.
    """
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + config.eps)
    if config.gemma:
        return (normed * (1.0 + weight.astype(jnp.float32))).astype(x.dtype)
    return weight * normed.astype(x.dtype)


def dequantised(codes_FD: jax.Array, scale_FG: jax.Array, zero_FG: jax.Array | None) -> jax.Array:
    """(code - zero point) * scale, each operation in float32.

    Args:
        codes_FD: Codes of 8 bits.
        scale_FG: A scale for each group of columns, float32.
        zero_FG: The zero points likewise; None where they are zero.

    Returns:
        float32 [F, D].
    """
    F, D = codes_FD.shape
    wide_FGC = codes_FD.astype(jnp.float32).reshape(F, scale_FG.shape[1], -1)
    if zero_FG is not None:
        wide_FGC = wide_FGC - zero_FG[..., None]
    return (wide_FGC * scale_FG[..., None]).reshape(F, D)


class Layer(nnx.Module):
    """One kind of decoder layer. Its parameters are named as in the checkpoint, dots written as underscores."""

    def __init__(self, config: DecoderConfig, moe: bool, arrays: Arrays) -> None:
        self.config = config
        self.moe = moe
        self.weights = nnx.Dict({name: nnx.Param(array) for name, array in arrays.items()})

    def __call__(
        self, x_BTD: jax.Array, mask_BTS: jax.Array, rotation: tuple[jax.Array, jax.Array], prefix: KeyValues | None = None
    ) -> tuple[jax.Array, KeyValues]:
        """The layer's output [B, T, D], and the keys and values [B, T, K, H] of its tokens."""
        attended, key_values = self._attention(self._norm(x_BTD, "input_layernorm"), mask_BTS, rotation, prefix)
        if self.config.four_norms:
            x_BTD = x_BTD + self._norm(attended, "post_attention_layernorm")
            h_BTD = self._mlp(self._norm(x_BTD, "pre_feedforward_layernorm"))
            return x_BTD + self._norm(h_BTD, "post_feedforward_layernorm"), key_values
        x_BTD = x_BTD + attended
        return x_BTD + self._mlp(self._norm(x_BTD, "post_attention_layernorm")), key_values

    def _weight(self, name: str) -> jax.Array:
        """A weight; of codes and scales the numbers, as they would be had they been computed on loading."""
        array: jax.Array = self.weights[name][...]
        if f"{name}_scale" not in self.weights:
            return array
        zeros = self.weights[f"{name}_zero"][...] if f"{name}_zero" in self.weights else None
        numbers = dequantised(array, self.weights[f"{name}_scale"][...], zeros)
        return numbers.astype(self.weights["input_layernorm"][...].dtype)

    def _norm(self, x: jax.Array, name: str) -> jax.Array:
        return rms_norm(x, self._weight(name), self.config)

    def _linear(self, x: jax.Array, name: str) -> jax.Array:
        y = jnp.einsum("...D,FD->...F", x, self._weight(name))
        return y + self._weight(f"{name}_bias") if f"{name}_bias" in self.weights else y

    def _attention(
        self, x_BTD: jax.Array, mask_BTS: jax.Array, rotation: tuple[jax.Array, jax.Array], prefix: KeyValues | None
    ) -> tuple[jax.Array, KeyValues]:
        config = self.config
        B, T, _ = x_BTD.shape
        q_BTNH = self._linear(x_BTD, "q_proj").reshape(B, T, config.num_heads, config.head_dim)
        k_BSKH = self._linear(x_BTD, "k_proj").reshape(B, T, config.num_kv_heads, config.head_dim)
        v_BSKH = self._linear(x_BTD, "v_proj").reshape(B, T, config.num_kv_heads, config.head_dim)
        if config.qk_norm:
            q_BTNH, k_BSKH = self._norm(q_BTNH, "q_norm"), self._norm(k_BSKH, "k_norm")
        q_BTNH, key_values = rotate(q_BTNH, *rotation), KeyValues(rotate(k_BSKH, *rotation), v_BSKH)
        out_BTNH = attention(q_BTNH, key_values, prefix, mask_BTS, config.scale, config.softcap)
        return self._linear(out_BTNH.reshape(B, T, -1), "o_proj"), key_values

    def _mlp(self, x_BTD: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.config.activation]
        if self.moe:
            return self._experts(x_BTD)
        h_BTF = activation(self._linear(x_BTD, "gate_proj")) * self._linear(x_BTD, "up_proj")
        return self._linear(h_BTF, "down_proj")

    def _experts(self, x_BTD: jax.Array) -> jax.Array:
        """Each token through its top experts: tokens sorted by expert, one ragged product per projection."""
        moe = self.config.moe
        assert moe is not None
        x_XD = x_BTD.reshape(-1, x_BTD.shape[-1])
        probabilities_XE = jax.nn.softmax(self._linear(x_XD, "router").astype(jnp.float32), axis=-1)
        share_Xk, expert_Xk = jax.lax.top_k(probabilities_XE, moe.top_k)
        if moe.normalise:
            share_Xk = share_Xk / share_Xk.sum(axis=-1, keepdims=True)
        order = jnp.argsort(expert_Xk.reshape(-1))
        sizes_E = jnp.bincount(expert_Xk.reshape(-1), length=moe.num_experts)
        sorted_YD = x_XD[order // moe.top_k]
        gate = jax.lax.ragged_dot(sorted_YD, self._weight("experts_gate"), sizes_E)
        up = jax.lax.ragged_dot(sorted_YD, self._weight("experts_up"), sizes_E)
        out_YD = jax.lax.ragged_dot(ACTIVATIONS[self.config.activation](gate) * up, self._weight("experts_down"), sizes_E)
        weighted_YD = out_YD * share_Xk.reshape(-1)[order, None].astype(out_YD.dtype)
        return jnp.zeros_like(x_XD).at[order // moe.top_k].add(weighted_YD).reshape(x_BTD.shape)
