"""Whether the tensors are those that the quantization_config promises."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from jaxconv.checkpoint import TensorRef
from jaxconv.errors import RefusedError
from jaxconv.families.parameter import Parameter
from jaxconv.quantisation.protocol import Quantisation
from jaxconv.quantisation.storage import Storage, mismatch

PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
# Last components of tensors that only quantised modules have.
PACKED = re.compile(
    r"qweight|qzeros|scales|g_idx|weight_(packed|scale|scale_2|scale_inv|zero_point|global_scale|shape)|_weight_\w+|absmax|SCB"
)
HEAD = "lm_head."


@dataclass(frozen=True, slots=True)
class Layout:
    """How a checkpoint's tensors compare with what is expected of them.

    Attributes:
        storages: How each quantised parameter is stored, by the parameter's plain name.
        backbone: The names of all tensors that belong to the backbone, in file order.
        missing: Names of tensors that are not there.
        unexpected: Names that nothing explains.
        misshapen: Sentences on tensors of another dtype or shape.
        contradictions: Sentences on modules that the configuration calls quantised and the tensors plain, or the reverse.
    """

    storages: Mapping[str, Storage]
    backbone: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    contradictions: tuple[str, ...]


def check_tensors(
    quantisation: Quantisation,
    parameters: Mapping[str, Parameter],
    tensors: Mapping[str, TensorRef],
    allowed: Collection[str] = (),
) -> Layout:
    """Compares a checkpoint's tensors with what its family and its quantisation expect.

    Args:
        quantisation: What `open_quantisation` gave.
        parameters: Every parameter of the backbone by its plain name, without the head.
        tensors: The checkpoint's tensors.
        allowed: Further names that may be there; those of the head always may.

    Returns:
        The comparison. Nothing is raised for single tensors, so that the caller can name them all.

    Raises:
        RefusedError: No parameter at all is stored quantised.
    """
    stored = {name: quantisation.storage(name, parameter) for name, parameter in parameters.items()}
    storages = {name: storage for name, storage in stored.items() if storage is not None}
    if not any(ref.dtype not in PLAIN for name, ref in tensors.items() if _is_of(name, parameters)):
        raise RefusedError(
            f"config.json says that the checkpoint is quantised ({quantisation.summary}), and every tensor is plain. If the "
            "weights were dequantised, remove quantization_config from config.json; else get the quantised weights."
        )
    contradictions = _contradictions(stored, parameters, tensors)
    parts = {name: part for storage in storages.values() for name, part in storage.names().items()}
    plain = {name: parameter.shape for name, parameter in parameters.items() if stored[name] is None}
    expected = {**parts, **plain}
    settled = tuple(f"{module}." for module in contradictions)
    missing = [name for name in plain if name not in tensors]
    missing += [name for name, part in parts.items() if part.required and name not in tensors and name not in plain]
    misshapen = [f"{name} is {problem}" for name, part in parts.items()
                 if name in tensors and name not in plain and (problem := mismatch(part, tensors[name]))]  # fmt: skip
    misshapen += [
        problem for name, shape in plain.items() if name in tensors and (problem := _not_plain(tensors[name], shape))
    ]
    extra = [name for name in tensors if name not in expected and name not in allowed and not name.startswith(HEAD)]
    extra = [name for name in extra if not quantisation.accompanies(name)]
    backbone = tuple(name for name in tensors if name in expected or quantisation.accompanies(name))
    return Layout(
        storages=storages,
        backbone=backbone,
        missing=_without(missing, settled),
        unexpected=_without(extra, settled),
        misshapen=_without(misshapen, settled),
        contradictions=tuple(contradictions.values()),
    )


def _contradictions(
    stored: Mapping[str, Storage | None], parameters: Mapping[str, Parameter], tensors: Mapping[str, TensorRef]
) -> dict[str, str]:
    """Modules of which configuration and tensors say different things, each with a sentence."""
    packed: dict[str, list[str]] = {}
    for name in tensors:
        module, _, leaf = name.rpartition(".")
        if PACKED.fullmatch(leaf):
            packed.setdefault(module, []).append(leaf)
    contradictions = {}
    for name, storage in stored.items():
        module = name.rpartition(".")[0]
        if parameters[name].kind not in ("linear", "embedding") or not name.endswith(".weight"):
            continue
        if storage is None and module in packed:
            contradictions[module] = (
                f"{module} is plain in quantization_config, and the file has its {', '.join(sorted(packed[module]))}"
            )
        elif storage is not None and module not in packed and name in tensors and tensors[name].dtype in PLAIN:
            contradictions[module] = (
                f"{module} is {storage.kind} in quantization_config, and its weight in the file is {tensors[name].dtype}"
            )
    return contradictions


def _is_of(name: str, parameters: Mapping[str, Parameter]) -> bool:
    """Whether a tensor belongs to a module of the backbone. Positions and other buffers do not."""
    return f"{name.rpartition('.')[0]}.weight" in parameters


def _not_plain(ref: TensorRef, shape: tuple[int, ...]) -> str:
    if ref.dtype in PLAIN and ref.shape == shape:
        return ""
    return f"{ref.name} is {ref.dtype} {list(ref.shape)}; expected {'/'.join(sorted(PLAIN))} {list(shape)}"


def _without(findings: list[str], settled: tuple[str, ...]) -> tuple[str, ...]:
    """The findings that no contradiction explains already."""
    return tuple(finding for finding in findings if not finding.startswith(settled))
