"""Models of transformers whose linears stay codes of 8 bits in memory; each computes its numbers when it is used."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import nn

Array: TypeAlias = NDArray[Any]
Tensors: TypeAlias = Mapping[str, Callable[[], Array]]
# Name of a weight -> functions that read codes [rows, columns], scales and, if there are, zero points [rows, groups].
PackedTensors: TypeAlias = Mapping[str, tuple[Callable[[], Array], ...]]


class PackedLinear(nn.Module):
    """A linear layer with weight (code - zero point) * scale, each a float32 operation, rounded once to the model's dtype."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None

    def __init__(
        self, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, bias: Any, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("zeros", zeros, persistent=False)
        self.bias = bias
        self.dtype = dtype

    @property
    def weight(self) -> torch.Tensor:
        """The numbers [rows, columns], computed anew."""
        rows, columns = self.codes.shape
        # A copy whatever the codes are, because the products are written into it.
        wide = self.codes.to(torch.float32, copy=True).reshape(rows, self.scales.shape[1], -1)
        if self.zeros is not None:
            wide -= self.zeros[..., None]
        wide *= self.scales[..., None]
        return wide.reshape(rows, columns).to(self.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [..., columns] times the weight, plus the bias."""
        return nn.functional.linear(x, self.weight, self.bias)


def can_stay_packed(model: Any, tensors: Tensors, packed: PackedTensors) -> bool:
    """Whether all parameters have a tensor of their name, and all packed ones are plain linears.

    Experts that transformers fuses, for example, have no such tensor: their numbers are computed on loading.

    Args:
        model: The model, without values.
        tensors: Functions that read the tensors, by the model's names.
        packed: Those of the packed ones, by the same names.
    """
    modules = dict(model.named_modules())
    needed = set(model.state_dict())
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    linears = all(type(modules.get(name.removesuffix(".weight"))) is nn.Linear for name in packed if name in needed)
    return linears and bool(packed.keys() & needed) and needed <= tensors.keys() | tied


def load_packed(build: Callable[[], Any], tensors: Tensors, packed: PackedTensors, dtype: torch.dtype, to_torch: Any) -> Any:
    """The model with its values, packed linears as they are stored.

    Args:
        build: Makes the model.
        tensors: Functions that read the tensors, by the model's names.
        packed: Those of the packed ones, by the same names.
        dtype: The dtype of parameters, and of the numbers that packed linears compute.
        to_torch: Makes a tensor of an array.
    """
    with _empty_parameters():
        model = build()
    for name in list(model.state_dict()):
        if name in packed:
            path = name.removesuffix(".weight")
            codes, scales, *zeros = (to_torch(read()) for read in packed[name])
            bias = model.get_submodule(path).bias
            model.set_submodule(path, PackedLinear(codes, scales, zeros[0] if zeros else None, bias, dtype))
    for name, old in model.state_dict(keep_vars=True).items():
        if name in tensors:
            value = to_torch(tensors[name]())
            if value.shape != old.shape:
                raise ValueError(f"{name} has shape {list(value.shape)}; expected {list(old.shape)}")
            value = value.to(dtype) if value.is_floating_point() else value
            model.load_state_dict({name: value}, strict=False, assign=True)
    model.tie_weights()
    return model


@contextmanager
def _empty_parameters() -> Iterator[None]:
    """Parameters are made without values or memory; buffers, which are computed from the config, with."""
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign, assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
