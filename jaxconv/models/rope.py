"""Rotary position embeddings: the frequencies of every scaling, and their application.

Lengths are per sequence, so that the score of a pair never depends on what it is batched with.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxconv.errors import SourceError
from jaxconv.json_files import JsonDict
from jaxconv.models.config import Rope

Floats = NDArray[np.float32]


def cos_sin(rope: Rope, positions: jax.Array, length_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rotation at each position.

    Args:
        rope: The rotation of the model, with its scaling.
        positions: The position of each token, integers [B, T]; or [B, T, dim/2], one for each frequency.
        length_B: The length of each sequence in tokens.

    Returns:
        Two arrays [B, T, dim/2] in float32.
    """
    frequencies_BF, attention_factor = _frequencies(rope, length_B)
    positions_BTF = positions[..., None] if positions.ndim == 2 else positions
    angles_BTF = positions_BTF.astype(jnp.float32) * frequencies_BF[:, None, :]
    return jnp.cos(angles_BTF) * attention_factor, jnp.sin(angles_BTF) * attention_factor


def rotate(x_BTNH: jax.Array, cos_BTF: jax.Array, sin_BTF: jax.Array) -> jax.Array:
    """Rotates the first 2F of H features (halves paired, as Hugging Face stores them); the rest passes.

    Args:
        x_BTNH: Queries or keys of N heads.
        cos_BTF: The cosines of `cos_sin`.
        sin_BTF: The sines of `cos_sin`.

    Returns:
        An array of the shape and dtype of `x_BTNH`.
    """
    half = cos_BTF.shape[-1]
    cos = cos_BTF[:, :, None, :].astype(x_BTNH.dtype)
    sin = sin_BTF[:, :, None, :].astype(x_BTNH.dtype)
    first, second, rest = x_BTNH[..., :half], x_BTNH[..., half : 2 * half], x_BTNH[..., 2 * half :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def _frequencies(rope: Rope, length_B: jax.Array) -> tuple[jax.Array, float]:
    """Inverse frequencies [B or 1, dim/2] and the factor on cos and sin."""
    options = dict(rope.options)
    try:
        if rope.kind == "dynamic":
            return _dynamic(rope, float(options["factor"]), length_B), 1.0
        if rope.kind == "longrope":
            return _longrope(rope, options, length_B)
        if rope.kind == "yarn":
            frequencies, attention_factor = _yarn(rope, options)
            return jnp.asarray(frequencies)[None], attention_factor
        frequencies = _base(rope)
        if rope.kind == "linear":
            frequencies = frequencies / np.float32(options["factor"])
        elif rope.kind == "llama3":
            frequencies = _llama3(frequencies, options)
    except KeyError as error:
        raise SourceError(
            f"config.json asks for {rope.kind} rope scaling without {error}; expected it beside rope_type."
        ) from None
    return jnp.asarray(frequencies)[None], 1.0


def _exponents(rope: Rope) -> Floats:
    return np.arange(0, rope.dim, 2, dtype=np.float32) / np.float32(rope.dim)


def _base(rope: Rope) -> Floats:
    return (1.0 / np.float32(rope.theta) ** _exponents(rope)).astype(np.float32)


def _dynamic(rope: Rope, factor: float, length_B: jax.Array) -> jax.Array:
    length = jnp.maximum(length_B, rope.max_positions).astype(jnp.float32)
    growth = (factor * length / rope.max_positions - (factor - 1)) ** (rope.dim / (rope.dim - 2))
    return 1.0 / (rope.theta * growth[:, None]) ** jnp.asarray(_exponents(rope))


def _llama3(frequencies: Floats, options: JsonDict) -> Floats:
    factor, low, high = options["factor"], options["low_freq_factor"], options["high_freq_factor"]
    original = options["original_max_position_embeddings"]
    wavelength = 2 * math.pi / frequencies
    smooth = (original / wavelength - low) / (high - low)
    blended = (1 - smooth) * frequencies / factor + smooth * frequencies
    scaled = np.where(wavelength > original / low, frequencies / factor, frequencies)
    medium = (wavelength >= original / high) & (wavelength <= original / low)
    return np.where(medium, blended, scaled).astype(np.float32)


def _yarn(rope: Rope, options: JsonDict) -> tuple[Floats, float]:
    original = options["original_max_position_embeddings"]
    factor = options.get("factor") or rope.max_positions / original

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    def dimension(rotations: float) -> float:
        return rope.dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    attention_factor = options.get("attention_factor")
    if attention_factor is None:
        weights = options.get("mscale"), options.get("mscale_all_dim")
        attention_factor = mscale(weights[0]) / mscale(weights[1]) if weights[0] and weights[1] else mscale(1.0)
    low, high = dimension(options.get("beta_fast") or 32), dimension(options.get("beta_slow") or 1)
    if options.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    ramp = (np.arange(rope.dim // 2, dtype=np.float32) - low) / (high - low if high != low else 0.001)
    keep = 1 - np.clip(ramp, 0, 1)
    plain = _base(rope)
    return (plain / factor * (1 - keep) + plain * keep).astype(np.float32), float(attention_factor)


def _longrope(rope: Rope, options: JsonDict, length_B: jax.Array) -> tuple[jax.Array, float]:
    original = options["original_max_position_embeddings"]
    factor = options.get("factor") or rope.max_positions / original
    attention_factor = options.get("attention_factor")
    if attention_factor is None:
        attention_factor = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    plain = _base(rope)
    short = plain / np.asarray(options["short_factor"], np.float32)
    long = plain / np.asarray(options["long_factor"], np.float32)
    return jnp.where((length_B > original)[:, None], long, short), float(attention_factor)
