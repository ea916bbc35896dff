"""The decoder: one NNX layer whose arrays carry a leading layer axis, run with a scan over runs of equal layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from numpy.typing import NDArray

from jaxconv.checkpoint import Array
from jaxconv.models.batching import Batcher
from jaxconv.models.config import DecoderConfig
from jaxconv.models.picture_tokens import PictureTokens
from jaxconv.models.rope import cos_sin, rotate
from jaxconv.models.token_ids import check_token_ids

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

    def __call__(self, x_BTD: jax.Array, mask_BTS: jax.Array, cos_BTF: jax.Array, sin_BTF: jax.Array) -> jax.Array:
        """The layer's output [B, T, D]."""
        attended = self._attention(self._norm(x_BTD, "input_layernorm"), mask_BTS, cos_BTF, sin_BTF)
        if self.config.four_norms:
            x_BTD = x_BTD + self._norm(attended, "post_attention_layernorm")
            h_BTD = self._mlp(self._norm(x_BTD, "pre_feedforward_layernorm"))
            return x_BTD + self._norm(h_BTD, "post_feedforward_layernorm")
        x_BTD = x_BTD + attended
        return x_BTD + self._mlp(self._norm(x_BTD, "post_attention_layernorm"))

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

    def _attention(self, x_BTD: jax.Array, mask_BTS: jax.Array, cos_BTF: jax.Array, sin_BTF: jax.Array) -> jax.Array:
        config = self.config
        B, T, _ = x_BTD.shape
        q_BTNH = self._linear(x_BTD, "q_proj").reshape(B, T, config.num_heads, config.head_dim)
        k_BSKH = self._linear(x_BTD, "k_proj").reshape(B, T, config.num_kv_heads, config.head_dim)
        v_BSKH = self._linear(x_BTD, "v_proj").reshape(B, T, config.num_kv_heads, config.head_dim)
        if config.qk_norm:
            q_BTNH, k_BSKH = self._norm(q_BTNH, "q_norm"), self._norm(k_BSKH, "k_norm")
        q_BTNH, k_BSKH = rotate(q_BTNH, cos_BTF, sin_BTF), rotate(k_BSKH, cos_BTF, sin_BTF)
        if config.softcap is None:
            out_BTNH = jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, mask=mask_BTS[:, None], scale=config.scale)
        else:
            out_BTNH = _softcapped_attention(q_BTNH, k_BSKH, v_BSKH, mask_BTS, config.scale, config.softcap)
        return self._linear(out_BTNH.reshape(B, T, -1), "o_proj")

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


def _softcapped_attention(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array, scale: float, softcap: float
) -> jax.Array:
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    logits = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH) * scale
    logits = (jnp.tanh(logits / softcap) * softcap).astype(jnp.float32)
    logits = jnp.where(mask_BTS[:, None, None], logits, float(np.finfo(np.float32).min))
    shares = jax.nn.softmax(logits, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", shares, v_BSKH).reshape(B, T, N, H)


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

    def __call__(self, ids_BT: jax.Array, mask_BT: jax.Array, pictures: PictureTokens | None = None) -> jax.Array:
        """Final hidden states [B, T, D] in the weights' dtype. Padding, where the mask is 0, may lie on either side."""
        with jax.default_matmul_precision(precision(self.norm[...].dtype)):
            return self._hidden(ids_BT, mask_BT, pictures)

    def _hidden(self, ids_BT: jax.Array, mask_BT: jax.Array, pictures: PictureTokens | None) -> jax.Array:
        config = self.config
        mask_BT = mask_BT.astype(bool)
        x_BTD = self.embedding[...][ids_BT]
        if config.gemma:
            x_BTD = x_BTD * jnp.asarray(config.hidden_size**0.5, x_BTD.dtype)
        length_B = mask_BT.sum(axis=1)
        positions = jnp.maximum(jnp.cumsum(mask_BT, axis=1) - 1, 0)
        if pictures is not None:
            positions = pictures.positions_BTF
            x_BTD = jnp.where(pictures.index_BT[..., None] > 0, pictures.layer(0, x_BTD.dtype), x_BTD)
        tables = [cos_sin(rope, positions, length_B) for rope in config.ropes]
        cos_RBTF, sin_RBTF = (jnp.stack(kind) for kind in zip(*tables, strict=True))
        steps = jnp.arange(ids_BT.shape[1])
        distance_TS = steps[:, None] - steps[None, :]
        causal_BTS = (distance_TS >= 0) & mask_BT[:, None, :]
        start = 0
        for run in self.runs:
            graph, state = nnx.split(run)
            stop = start + jax.tree.leaves(state)[0].shape[0]
            per_layer = (
                state,
                jnp.asarray(config.windows[start:stop], jnp.int32),
                jnp.asarray(config.rope_of_layer[start:stop], jnp.int32),
                jnp.arange(start + 1, stop + 1, dtype=jnp.int32),
            )

            def step(x: jax.Array, layer: Any, graph: Any = graph) -> tuple[jax.Array, None]:
                weights, window, rope, number = layer
                mask_BTS = causal_BTS & (distance_TS < window)
                x = nnx.merge(graph, weights)(x, mask_BTS, cos_RBTF[rope], sin_RBTF[rope])
                return (x if pictures is None else x + pictures.layer(number, x.dtype)), None

            x_BTD, _ = jax.lax.scan(step, x_BTD, per_layer)
            start = stop
        return rms_norm(x_BTD, self.norm[...], config)

    def last(self, ids_BT: jax.Array, mask_BT: jax.Array, pictures: PictureTokens | None = None) -> jax.Array:
        """Hidden state of each sequence's last real token: what vLLM pools.

        Args:
            ids_BT: Token ids, integers, padded on either side.
            mask_BT: 1 for tokens, 0 for padding.
            pictures: The pictures of the batch; None if it has none.

        Returns:
            float32 [B, hidden_size].
        """
        x_BTD = self(ids_BT, mask_BT, pictures)
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
