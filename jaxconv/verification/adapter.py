"""A PEFT LoRA adapter, merged once more: W + scaling B A in float64, from the adapter's own files.

Names and scaling follow peft 0.21 (utils/save_and_load.py, tuners/lora/model.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxconv.errors import SourceError
from jaxconv.json_files import JsonObject, read_object

if TYPE_CHECKING:
    from jaxconv.checkpoint import Array
    from jaxconv.verification.array_comparison import Merge

FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<letter>[AB])(\.default)?(\.weight)?")
FLOAT32_EPSILON = 2.0**-24
LEVELS = re.compile(r"^(model\.)?(language_model\.)?(model\.)?")
WRAPPERS = ("base_model.model.", "language_model.", "model.language_model.")


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of one weight: [out, r] and [r, in], float64, and what their product is multiplied by."""

    tall: Array
    wide: Array
    scaling: float

    def merge(self, base: Array, rows: slice | list[int]) -> tuple[Array, Array]:
        """W + scaling B A of some rows of the weight, float64, and how far a sum in float32 may be from it.

        Args:
            base: These rows of W.
            rows: Which rows they are.
        """
        import numpy as np

        tall = self.tall[rows]
        # Every product, sum and scaling of float32 is off by half a unit; norms bound the sum of the products' sizes.
        sizes = np.outer(np.linalg.norm(tall, axis=1), np.linalg.norm(self.wide, axis=0)) * abs(self.scaling)
        slack = (len(self.wide) + 3) * FLOAT32_EPSILON * (np.abs(base) + sizes)
        return base + (tall @ self.wide) * self.scaling, slack


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter by the names of the weights that it changes.

    Attributes:
        factors: The low-rank factors of the weights that have them.
        replaced: Whole tensors that take the place of the base's, float64.
        findings: Names that belong to no weight of the model.
    """

    factors: Mapping[str, Factors]
    replaced: Mapping[str, Array]
    findings: tuple[str, ...] = ()

    def change(self, name: str, base: Array, rows: slice | list[int], dtype: str) -> tuple[Array, Array]:
        """Rows of a weight with the adapter, float64, and how far a sum in float32 may be from them.

        Args:
            name: The weight.
            base: These rows of the base's weight.
            rows: Which rows they are.
            dtype: The safetensors dtype that a whole tensor is rounded to before factors are added.
        """
        from jaxconv.checkpoint import numpy_dtype

        if name in self.replaced:
            base = self.replaced[name][rows].astype(numpy_dtype(dtype)).astype(base.dtype).reshape(base.shape)
        return self.factors[name].merge(base, rows) if name in self.factors else (base, base * 0)

    def merges(self, dtype_of: Callable[[str], str]) -> dict[str, Merge]:
        """How each weight changes; `dtype_of` gives the safetensors dtype of the base's weight."""

        def merge(name: str, dtype: str) -> Merge:
            return lambda base, rows: self.change(name, base, rows, dtype)

        return {name: merge(name, dtype_of(name)) for name in {**self.factors, **self.replaced}}


def read_adapter_files(directory: Path, names: Iterable[str]) -> AdapterFiles:
    """Reads an adapter with the safetensors library.

    Args:
        directory: The adapter.
        names: The names of the model's weights, the head included.

    Raises:
        SourceError: adapter_config.json is missing or damaged.
    """
    import numpy as np
    from safetensors.numpy import load_file

    config = read_object(directory / "adapter_config.json", "the adapter's configuration")
    known = set(names)
    halves: dict[str, dict[str, Array]] = {}
    replaced: dict[str, Array] = {}
    findings: list[str] = []
    for name, array in load_file(directory / "adapter_model.safetensors").items():
        match = FACTOR.fullmatch(name)
        weight = _weight(f"{match['module']}.weight" if match else name, known)
        if weight is None:
            findings.append(f"the adapter's {name} belongs to no weight of the model.")
        elif match is None:
            replaced[weight] = array.astype(np.float64)
        else:
            # of an embedding the factors are kept the other way round: A [r, vocabulary], B [hidden, r]
            wide = array.astype(np.float64).T if match["embedding"] else array.astype(np.float64)
            halves.setdefault(weight, {})[match["letter"] + (match["embedding"] or "")] = wide
    factors = {weight: _factors(weight, pair, config) for weight, pair in halves.items()}
    return AdapterFiles(factors, replaced, tuple(findings))


def _weight(name: str, known: set[str]) -> str | None:
    """The weight of the model that a name in the adapter means, without PEFT's wrappers."""
    plain = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".").replace(".default.", ".")
    forms = [plain]
    for wrapper in WRAPPERS:
        forms += [form.removeprefix(wrapper) for form in forms]
    forms += [form.replace("model.language_model.", "model.", 1) for form in forms]
    forms += [f"model.{form}" for form in forms]
    forms += [other for form in forms for other in _moved(form)]
    return next((form for form in forms if form in known), None)


def _moved(name: str) -> Iterator[str]:
    """A name where files of models of pictures and text may have it: modules have moved since these were written."""
    core = LEVELS.sub("", name)
    for level in ("", "model.", "model.language_model.", "language_model.", "language_model.model."):
        yield level + core
        yield level + core.replace("vision_tower.", "vision_tower.vision_model.", 1)


def _factors(weight: str, pair: Mapping[str, Array], config: JsonObject) -> Factors:
    if len(pair) != 2:
        raise SourceError(f"the adapter has only one factor of {weight}; expected A and B. Copy the adapter again.")
    if "A" in pair:
        tall, wide = pair["B"], pair["A"]
    else:
        tall, wide = pair["Aembedding_"], pair["Bembedding_"]
    return Factors(tall, wide, _scaling(weight.removesuffix(".weight"), wide.shape[0], config))


def _scaling(module: str, rank: int, config: JsonObject) -> float:
    """alpha / r, or alpha / sqrt(r) with use_rslora; `alpha_pattern` names modules by the end of their name."""
    patterns = config.get("alpha_pattern") or {}
    matching = (alpha for pattern, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", module))
    alpha = float(next(matching, config["lora_alpha"]))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
