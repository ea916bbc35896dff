"""Qwen3-VL's vision tower: patches of one picture -> features of its tokens, and those that the decoder's layers get."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxconv.checkpoint import Checkpoint, mapped
from jaxconv.errors import SourceError
from jaxconv.models.batching import bucket
from jaxconv.models.decoder import precision
from jaxconv.models.layer import ACTIVATIONS
from jaxconv.models.rope import rotate
from jaxconv.models.vision.config import VisionConfig
from jaxconv.models.vision.grid import Grid, patch_grid

PREFIX = "model.visual."
EPS = 1e-6
QUERIES = 256  # patches that attend to all others at a time: a large picture has thousands
BLOCK = (
    "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight",
    "attn.proj.bias", "mlp.linear_fc1.weight", "mlp.linear_fc1.bias", "mlp.linear_fc2.weight", "mlp.linear_fc2.bias",
)  # fmt: skip
MERGER = (
    "norm.weight", "norm.bias", "linear_fc1.weight", "linear_fc1.bias", "linear_fc2.weight", "linear_fc2.bias",
)  # fmt: skip
Weights = Mapping[str, Any]  # arrays by name, those of blocks and of deepstack mergers with a leading axis


class VisionTower:
    """The tower of a checkpoint on a device.

    Args:
        checkpoint: The tensors, under the names of transformers' class.
        config: The tower's sizes.
        dtype: The dtype that it runs in.
        place: Copies a host array to the devices.

    Raises:
        SourceError: Tensors are missing, or their shapes differ between layers.
    """

    def __init__(self, checkpoint: Checkpoint, config: VisionConfig, dtype: Any, place: Any) -> None:
        self.config, self.dtype, self._place = config, jnp.dtype(dtype), place
        tensors = checkpoint.tensors

        def read(name: str) -> NDArray[Any]:
            ref = tensors.get(PREFIX + name)
            if ref is None:
                raise SourceError(
                    f"{checkpoint.path} has no tensor {PREFIX + name}, which vision_config calls for. Download it again."
                )
            return np.asarray(mapped(ref)).astype(self.dtype)

        def stacked(name: str, layers: Sequence[int], parts: tuple[str, ...]) -> Weights:
            return {part: place(np.stack([read(f"{name}.{i}.{part}") for i in layers])) for part in parts} if layers else {}

        kernel = read("patch_embed.proj.weight")
        self._weights: Weights = {
            "patches": place(kernel.reshape(kernel.shape[0], -1)),
            "patches_bias": place(read("patch_embed.proj.bias")),
            "positions": place(read("pos_embed.weight")),
            "blocks": stacked("blocks", range(config.depth), BLOCK),
            "merger": {part: place(read(f"merger.{part}")) for part in MERGER},
            "deepstack": stacked("deepstack_merger_list", config.mergers, MERGER),
        }

    def features(self, pixels_PC: NDArray[Any], grid: Grid) -> NDArray[Any]:
        """The features of a picture's tokens, and those that the decoder's first layers add to them.

        Args:
            pixels_PC: Its patches, blocks of `merge` x `merge` after each other.
            grid: Patches in height and width.

        Returns:
            [1 + len(deepstack), tokens, hidden_size of the decoder], in the tower's dtype.
        """
        patches, block = patch_grid(grid, self.config), self.config.merge**2
        size = -(-bucket(len(pixels_PC)) // block) * block

        def padded(array: NDArray[Any]) -> Any:
            return self._place(np.pad(array, ((0, size - len(array)), (0, 0))))

        features_KTD = _features(
            self.config, self._weights, padded(pixels_PC.astype(self.dtype)), padded(patches.positions),
            padded(patches.taps), padded(patches.weights), self._place(np.arange(size) < len(pixels_PC)),
        )  # fmt: skip
        return np.asarray(features_KTD)[:, : len(pixels_PC) // block]


@partial(jax.jit, static_argnums=0)
def _features(
    config: VisionConfig,
    weights: Weights,
    pixels_PC: jax.Array,
    positions_P2: jax.Array,
    taps_P4: jax.Array,
    shares_P4: jax.Array,
    mask_P: jax.Array,
) -> jax.Array:
    """[1 + deepstack, P / merge², D]; patches whose mask is false only fill the shape."""
    dtype = pixels_PC.dtype
    with jax.default_matmul_precision(precision(dtype)):
        x_PE = pixels_PC @ weights["patches"].T + weights["patches_bias"]
        table_P4E = weights["positions"][taps_P4].astype(jnp.float32)
        x_PE = x_PE + jnp.sum(table_P4E * shares_P4[..., None], axis=1).astype(dtype)
        cos, sin = _rotations(config, positions_P2)

        kept = jnp.asarray(config.deepstack, jnp.int32)  # of other layers nothing is held

        def step(carry: tuple[jax.Array, jax.Array], layer: tuple[Weights, jax.Array]) -> tuple[Any, None]:
            (x_PE, kept_KPE), (block, number) = carry, layer
            x_PE = x_PE + _attention(config, block, _layer_norm(x_PE, block, "norm1"), cos, sin, mask_P)
            h_PE = _linear(_layer_norm(x_PE, block, "norm2"), block, "mlp.linear_fc1")
            x_PE = x_PE + _linear(ACTIVATIONS[config.activation](h_PE), block, "mlp.linear_fc2")
            return (x_PE, jnp.where((kept == number)[:, None, None], x_PE, kept_KPE)), None

        empty_KPE = jnp.zeros((len(config.deepstack), *x_PE.shape), dtype)
        layers = (weights["blocks"], jnp.arange(config.depth))
        (x_PE, kept_KPE), _ = jax.lax.scan(step, (x_PE, empty_KPE), layers)
        features = [_merged(config, weights["merger"], x_PE, after=False)]
        for number in range(len(config.deepstack)):
            merger = {name: array[number] for name, array in weights["deepstack"].items()}
            features.append(_merged(config, merger, kept_KPE[number], after=True))
        return jnp.stack(features)


def _rotations(config: VisionConfig, positions_P2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [1, P, head_dim / 2]: half of the frequencies follow the row, half the column."""
    half = config.hidden_size // config.num_heads // 2
    exponents = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
    frequencies = (1.0 / np.float32(config.rope_theta) ** exponents).astype(np.float32)
    angles = positions_P2.astype(jnp.float32)[:, :, None] * frequencies
    angles = angles.reshape(1, len(positions_P2), -1)
    return jnp.cos(angles), jnp.sin(angles)


def _attention(
    config: VisionConfig, block: Weights, x_PE: jax.Array, cos: jax.Array, sin: jax.Array, mask_P: jax.Array
) -> jax.Array:
    """Every patch attends to all of the picture; some queries at a time."""
    patches, heads = len(x_PE), config.num_heads
    q, k, v = jnp.moveaxis(_linear(x_PE, block, "attn.qkv").reshape(patches, 3, heads, -1), 1, 0)
    q, k = (rotate(part[None].astype(jnp.float32), cos, sin)[0].astype(x_PE.dtype) for part in (q, k))
    count = math.gcd(patches, QUERIES)
    mask = jnp.broadcast_to(mask_P, (1, 1, count, patches))

    def attend(queries: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(queries[None], k[None], v[None], mask=mask)[0]

    attended = jax.lax.map(attend, q.reshape(-1, count, *q.shape[1:]))
    return _linear(attended.reshape(patches, -1), block, "attn.proj")


def _merged(config: VisionConfig, merger: Weights, x_PE: jax.Array, *, after: bool) -> jax.Array:
    """Blocks of patches as tokens of the decoder; the norm is over a patch, or `after` joining over the block."""
    joined = config.merge**2 * x_PE.shape[1]
    x = x_PE.reshape(-1, joined) if after else x_PE
    x = _layer_norm(x, merger, "norm").reshape(-1, joined)
    return _linear(jax.nn.gelu(_linear(x, merger, "linear_fc1"), approximate=False), merger, "linear_fc2")


def _layer_norm(x: jax.Array, weights: Mapping[str, jax.Array], name: str) -> jax.Array:
    x32 = x.astype(jnp.float32)
    mean = jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean((x32 - mean) ** 2, axis=-1, keepdims=True)
    normed = (x32 - mean) * jax.lax.rsqrt(variance + EPS)
    return (normed * weights[f"{name}.weight"] + weights[f"{name}.bias"]).astype(x.dtype)


def _linear(x: jax.Array, weights: Mapping[str, jax.Array], name: str) -> jax.Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
