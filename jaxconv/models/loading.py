"""Tensor references -> a decoder on one device, or sharded over a mesh, each device reading only its part."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxconv.checkpoint import Array, Checkpoint, TensorRef, mapped, numpy_dtype
from jaxconv.errors import SourceError
from jaxconv.json_files import JsonObject
from jaxconv.models.config import DecoderConfig, decoder_config
from jaxconv.models.decoder import Decoder
from jaxconv.models.layer import Layer

EMBEDDING = "embed_tokens.weight"
Index = tuple[slice, ...]

# Parameter of a layer -> (name in the checkpoint, axis to shard counted in the tensor itself, None: whole).
ATTENTION = {
    "q_proj": ("self_attn.q_proj.weight", 0), "k_proj": ("self_attn.k_proj.weight", 0),
    "v_proj": ("self_attn.v_proj.weight", 0), "o_proj": ("self_attn.o_proj.weight", 1),
}  # fmt: skip
MLP = {
    "gate_proj": ("mlp.gate_proj.weight", 0), "up_proj": ("mlp.up_proj.weight", 0),
    "down_proj": ("mlp.down_proj.weight", 1),
}  # fmt: skip
# Block of experts and its projections: model_type -> (router, gate, up, down).
EXPERTS = {
    "mixtral": ("block_sparse_moe.gate.weight", "block_sparse_moe.experts.{}.w1.weight",
                "block_sparse_moe.experts.{}.w3.weight", "block_sparse_moe.experts.{}.w2.weight"),
    "qwen3_moe": ("mlp.gate.weight", "mlp.experts.{}.gate_proj.weight",
                  "mlp.experts.{}.up_proj.weight", "mlp.experts.{}.down_proj.weight"),
}  # fmt: skip


def load_decoder(
    checkpoint: Checkpoint,
    config: JsonObject,
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    device: jax.Device | None = None,
) -> Decoder:
    """Loads the backbone of a causal LM or classifier.

    Args:
        checkpoint: Tensors under Hugging Face names; a head is ignored.
        config: The model's config.json.
        dtype: The dtype that floating-point tensors are cast to.
        mesh: Devices that the projections are sharded over, along the mesh's last axis.
        device: The device without a mesh; JAX's default device if None.

    Returns:
        The decoder; `decoder.hidden_last(token_ids)` gives float32 hidden states [N, hidden_size].

    Raises:
        SourceError: Tensors are missing or misshaped, or the config lacks numbers.
        UsageError: The decoder does not run this model.
    """
    described = decoder_config(config)
    return _Loader(checkpoint, described, jnp.dtype(dtype), mesh, device).decoder()


def read_slice(ref: TensorRef, index: Index) -> Array:
    """Part of a tensor; of a local file only the pages that the part lies in are read.

    Args:
        ref: The tensor.
        index: A slice for each axis.
    """
    return mapped(ref)[index]


class _Loader:
    def __init__(
        self, checkpoint: Checkpoint, config: DecoderConfig, dtype: Any, mesh: Mesh | None, device: jax.Device | None
    ) -> None:
        self.tensors, self.source, self.config = checkpoint.tensors, checkpoint.path, config
        # The compiler places what the forward pass makes, so axes are automatic whatever the caller's mesh says.
        automatic = (AxisType.Auto,) * len(mesh.axis_names) if mesh is not None else ()
        self.mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=automatic) if mesh is not None else None
        self.dtype = dtype
        self.device = device or jax.devices()[0]
        embeddings = [name for name in self.tensors if name == EMBEDDING or name.endswith(f".{EMBEDDING}")]
        if len(embeddings) != 1:
            raise SourceError(
                f"{self.source} has {len(embeddings)} token embeddings {embeddings}; expected one *.{EMBEDDING}."
            )
        self.prefix = embeddings[0].removesuffix(EMBEDDING)

    def decoder(self) -> Decoder:
        config = self.config
        kinds = groupby(range(config.num_layers), key=lambda layer: config.moe_layers[layer])
        runs = [Layer(config, moe, self._run(list(layers), moe)) for moe, layers in kinds]
        shape = (config.vocab_size, config.hidden_size)
        embedding = self._one(EMBEDDING, shape)
        return Decoder(config, embedding, self._one("norm.weight", shape[1:]), runs, self.mesh)

    def ref(self, name: str, shape: tuple[int, ...]) -> TensorRef:
        ref = self.tensors.get(self.prefix + name)
        if ref is None:
            raise SourceError(
                f"{self.source} has no tensor {self.prefix + name}, which config.json calls for. Download the weights again."
            )
        # A padded vocabulary has more rows than config.json says; nothing else may differ.
        if ref.shape != shape and not (name == EMBEDDING and ref.shape[1:] == shape[1:]):
            raise SourceError(
                f"{ref.name} of {self.source} has shape {list(ref.shape)}; expected {list(shape)} from config.json."
            )
        return ref

    def _place(
        self, shape: tuple[int, ...], shard_axis: int | None, read: Callable[[Index], Array], dtype: Any = None
    ) -> jax.Array:
        def cast(index: Index | None) -> Array:
            return np.ascontiguousarray(read(index or (slice(None),) * len(shape))).astype(dtype or self.dtype, copy=False)

        if self.mesh is None:
            return jax.make_array_from_callback(shape, SingleDeviceSharding(self.device), cast)
        name = self.mesh.axis_names[-1]
        parts: list[str | None] = [None] * len(shape)
        if shard_axis is not None and shape[shard_axis] % self.mesh.shape[name] == 0:
            parts[shard_axis] = name
        spec = PartitionSpec(*parts)  # type: ignore[no-untyped-call]
        return jax.make_array_from_callback(shape, NamedSharding(self.mesh, spec), cast)

    def _one(self, name: str, shape: tuple[int, ...]) -> jax.Array:
        ref = self.ref(name, shape)
        return self._place(ref.shape, 0 if len(shape) > 1 else None, lambda index: read_slice(ref, index))

    def _stack(
        self, layers: list[int], name: str, shape: tuple[int, ...], axis: int | None, part: slice = slice(None)
    ) -> jax.Array:
        """[L, ...] of one tensor per layer; `part` takes those rows of a fused tensor of `shape`."""
        refs = [self.ref(f"layers.{layer}.{name}", shape) for layer in layers]
        rows = range(*part.indices(shape[0]))

        def read(index: Index) -> Array:
            part_rows = rows[index[1]]
            first = slice(part_rows.start, part_rows.stop)
            return np.stack([read_slice(ref, (first, *index[2:])) for ref in refs[index[0]]])

        return self._place((len(refs), len(rows), *shape[1:]), None if axis is None else axis + 1, read)

    def _matrix(
        self, layers: list[int], parameter: str, name: str, shape: tuple[int, int], axis: int
    ) -> dict[str, jax.Array]:
        """One matrix per layer: as codes and scales where all of them are stored so, else as numbers."""
        packed = [self.ref(f"layers.{layer}.{name}", shape).packed for layer in layers]
        parts = [entry for entry in packed if entry is not None]
        scales = [entry.scales() for entry in parts]
        if len({(e.codes.dtype, s.shape, e.zeros is None) for e, s in zip(parts, scales, strict=True)}) != 1:
            return {parameter: self._stack(layers, name, shape, axis)}
        if len(parts) < len(layers):
            return {parameter: self._stack(layers, name, shape, axis)}

        def codes(index: Index) -> Array:
            return np.stack([read_slice(entry.codes, index[1:]) for entry in parts[index[0]]])

        rows = 1 if axis == 0 else None
        arrays = {
            parameter: self._place((len(layers), *shape), axis + 1, codes, numpy_dtype(parts[0].codes.dtype)),
            f"{parameter}_scale": self._whole(scales, rows),
        }
        zeros = [entry.zeros() for entry in parts if entry.zeros is not None]
        return arrays | ({f"{parameter}_zero": self._whole(zeros, rows)} if zeros else {})

    def _whole(self, arrays: list[Array], axis: int | None) -> jax.Array:
        stacked = np.stack(arrays)
        return self._place(stacked.shape, axis, lambda index: stacked[index], np.float32)

    def _run(self, layers: list[int], moe: bool) -> dict[str, jax.Array]:
        config = self.config
        arrays = {name: self._stack(layers, f"{name}.weight", (config.hidden_size,), None) for name in self._norms()}
        if config.qk_norm:
            for name in ("q_norm", "k_norm"):
                arrays[name] = self._stack(layers, f"self_attn.{name}.weight", (config.head_dim,), None)
        arrays |= self._fused_attention(layers) if config.fused else self._attention(layers)
        return arrays | (self._experts(layers) if moe else self._mlp(layers))

    def _norms(self) -> list[str]:
        names = ["input_layernorm", "post_attention_layernorm"]
        four = ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        return names + (four if self.config.four_norms else [])

    def _sizes(self) -> dict[str, tuple[int, int]]:
        config = self.config
        query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        D = config.hidden_size
        return {"q_proj": (query, D), "k_proj": (key, D), "v_proj": (key, D), "o_proj": (D, query)}

    def _attention(self, layers: list[int]) -> dict[str, jax.Array]:
        arrays: dict[str, jax.Array] = {}
        for parameter, (name, axis) in ATTENTION.items():
            shape = self._sizes()[parameter]
            arrays |= self._matrix(layers, parameter, name, shape, axis)
            if self.config.output_bias if parameter == "o_proj" else self.config.attention_bias:
                bias = name.removesuffix("weight") + "bias"
                arrays[f"{parameter}_bias"] = self._stack(layers, bias, shape[:1], None)
            else:
                self._refuse_bias(layers[0], name)
        return arrays

    def _refuse_bias(self, layer: int, name: str) -> None:
        bias = f"{self.prefix}layers.{layer}.{name.removesuffix('weight')}bias"
        if bias in self.tensors:
            raise SourceError(
                f"{self.source} has {bias}, but config.json says that the model has no such bias. Correct the config."
            )

    def _fused_attention(self, layers: list[int]) -> dict[str, jax.Array]:
        sizes = self._sizes()
        shape = (sum(sizes[name][0] for name in ("q_proj", "k_proj", "v_proj")), self.config.hidden_size)
        arrays, start = {"o_proj": self._stack(layers, "self_attn.o_proj.weight", sizes["o_proj"], 1)}, 0
        for name in ("q_proj", "k_proj", "v_proj"):
            rows = slice(start, start + sizes[name][0])
            arrays[name] = self._stack(layers, "self_attn.qkv_proj.weight", shape, 0, rows)
            start = rows.stop
        return arrays

    def _feed_forward(self, layer: int, name: str, axis: int) -> int:
        ref = self.tensors.get(f"{self.prefix}layers.{layer}.{name}")
        if ref is None or len(ref.shape) != 2:
            raise SourceError(
                f"{self.source} has no matrix {self.prefix}layers.{layer}.{name}, which config.json calls for. "
                "Download the weights again."
            )
        return ref.shape[axis]

    def _mlp(self, layers: list[int]) -> dict[str, jax.Array]:
        D, F = self.config.hidden_size, self._feed_forward(layers[0], MLP["down_proj"][0], 1)
        arrays = {}
        if self.config.fused:
            for i, parameter in enumerate(("gate_proj", "up_proj")):
                part = slice(i * F, (i + 1) * F)
                arrays[parameter] = self._stack(layers, "mlp.gate_up_proj.weight", (2 * F, D), 0, part)
            return arrays | {"down_proj": self._stack(layers, MLP["down_proj"][0], (D, F), 1)}
        for parameter, (name, axis) in MLP.items():
            shape = (D, F) if parameter == "down_proj" else (F, D)
            arrays |= self._matrix(layers, parameter, name, shape, axis)
            if self.config.mlp_bias:
                bias = name.removesuffix("weight") + "bias"
                arrays[f"{parameter}_bias"] = self._stack(layers, bias, shape[:1], None)
            else:
                self._refuse_bias(layers[0], name)
        return arrays

    def _experts(self, layers: list[int]) -> dict[str, jax.Array]:
        """Experts stacked as [L, E, in, out], the order that ragged products take."""
        config, moe = self.config, self.config.moe
        assert moe is not None
        router, *projections = EXPERTS[config.model_type]
        D, F = config.hidden_size, self._feed_forward(layers[0], projections[0].format(0), 0)
        arrays = {"router": self._stack(layers, router, (moe.num_experts, D), None)}
        for parameter, name in zip(("gate", "up", "down"), projections, strict=True):
            shape = (D, F) if parameter == "down" else (F, D)
            arrays[f"experts_{parameter}"] = self._expert_stack(layers, name, shape, moe.num_experts)
        return arrays

    def _expert_stack(self, layers: list[int], name: str, shape: tuple[int, int], experts: int) -> jax.Array:
        refs = [[self.ref(f"layers.{i}.{name.format(e)}", shape) for e in range(experts)] for i in layers]

        def read(index: Index) -> Array:
            part = (index[3], index[2])
            return np.stack([np.stack([read_slice(ref, part).T for ref in row[index[1]]]) for row in refs[index[0]]])

        return self._place((len(refs), experts, shape[1], shape[0]), 1, read)
