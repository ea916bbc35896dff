"""A small flax.nnx decoder of somebody's own, for Llama, Qwen3 and Gemma: Hugging Face's attribute names, Flax's leaves.

B batch, T length, N query heads, K key heads, H head size, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Norm(nnx.Module):
    """RMS norm; Gemma's scale is zero-centred."""

    def __init__(self, size: int, epsilon: float, offset: float):
        self.scale = nnx.Param(jnp.ones(size))
        self.epsilon, self.offset = epsilon, offset

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.epsilon) * (self.offset + self.scale[...])


def rotate(x_BTNH: jax.Array, base: float) -> jax.Array:
    half = x_BTNH.shape[-1] // 2
    angles_TH = jnp.arange(x_BTNH.shape[1])[:, None] / base ** (jnp.arange(half) / half)
    cos, sin = jnp.cos(angles_TH)[:, None], jnp.sin(angles_TH)[:, None]
    x, y = x_BTNH[..., :half], x_BTNH[..., half:]
    return jnp.concatenate([x * cos - y * sin, y * cos + x * sin], -1)


class Attention(nnx.Module):
    def __init__(self, config: Mapping[str, Any], linear: Any, norm: Any):
        self.head_dim, self.base = config["head_dim"], config["rope_theta"]
        n, k = (config[f"num_{what}_heads"] * self.head_dim for what in ("attention", "key_value"))
        size = config["hidden_size"]
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            linear(size, n),
            linear(size, k),
            linear(size, k),
            linear(n, size),
        )
        self.normed = config["model_type"] == "qwen3"
        if self.normed:
            self.q_norm, self.k_norm = norm(self.head_dim), norm(self.head_dim)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        q, k, v = (p(x_BTD).reshape(*x_BTD.shape[:2], -1, self.head_dim) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.normed:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, self.base), rotate(k, self.base)
        out_BTNH = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out_BTNH.reshape(*x_BTD.shape[:2], -1))


class Mlp(nnx.Module):
    def __init__(self, config: Mapping[str, Any], linear: Any):
        size, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj, self.up_proj, self.down_proj = linear(size, inner), linear(size, inner), linear(inner, size)
        self.gelu = config["model_type"] == "gemma"

    def __call__(self, x: jax.Array) -> jax.Array:
        gate = self.gate_proj(x)
        return self.down_proj((jax.nn.gelu(gate) if self.gelu else jax.nn.silu(gate)) * self.up_proj(x))


class Layer(nnx.Module):
    def __init__(self, config: Mapping[str, Any], linear: Any, norm: Any):
        size = config["hidden_size"]
        self.self_attn, self.mlp = Attention(config, linear, norm), Mlp(config, linear)
        self.input_layernorm, self.post_attention_layernorm = norm(size), norm(size)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nnx.Module):
    def __init__(self, config: Mapping[str, Any], linear: Any, norm: Any, rngs: nnx.Rngs):
        self.embed_tokens = nnx.Embed(config["vocab_size"], config["hidden_size"], rngs=rngs)
        self.layers = nnx.List([Layer(config, linear, norm) for _ in range(config["num_hidden_layers"])])
        self.norm = norm(config["hidden_size"])
        self.factor = config["hidden_size"] ** 0.5 if config["model_type"] == "gemma" else 1.0

    def __call__(self, ids_BT: jax.Array) -> jax.Array:
        x = self.embed_tokens(ids_BT) * self.factor
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Decoder(nnx.Module):
    """`Decoder(config)` has random weights; `load` sets those of a Hugging Face checkpoint."""

    def __init__(self, config: Mapping[str, Any]):
        rngs = nnx.Rngs(0)

        def linear(rows: int, columns: int) -> nnx.Linear:
            return nnx.Linear(rows, columns, use_bias=False, rngs=rngs)

        def norm(size: int) -> Norm:
            return Norm(size, config["rms_norm_eps"], 1.0 if config["model_type"] == "gemma" else 0.0)

        self.model = Model(config, linear, norm, rngs)
        self.tied = config["tie_word_embeddings"]
        if not self.tied:
            self.lm_head = linear(config["hidden_size"], config["vocab_size"])

    def __call__(self, ids_BT: jax.Array) -> jax.Array:
        x = self.model(ids_BT)
        return self.model.embed_tokens.attend(x) if self.tied else self.lm_head(x)

    def load(self, tensors: Mapping[str, np.ndarray[Any, Any]], dtype: Any = jnp.float32) -> None:
        """Every parameter must find its tensor, and every tensor its parameter."""
        state = nnx.state(self, nnx.Param)
        left = dict(tensors)
        for path, variable in nnx.to_flat_state(state):
            array = left.pop(".".join(map(str, path[:-1])) + ".weight")
            array = array.T if path[-1] == "kernel" else array
            assert array.shape == variable.shape, (path, array.shape, variable.shape)
            variable.set_value(jnp.asarray(array, dtype))
        assert not left, sorted(left)
        nnx.update(self, state)
