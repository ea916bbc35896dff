"""The output's side: its JSON files, and where every tensor lies, as the safetensors library reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxconv.errors import SourceError
from jaxconv.json_files import read_optional_object

if TYPE_CHECKING:
    from jaxconv.checkpoint import Array

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OTHER_WEIGHTS = ("*.bin", "*.msgpack", "*.pt", "*.pth", "*.gguf", "*.h5")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the output: its file, safetensors dtype name, shape, and first byte and length in the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def array(self, name: str) -> Array:
        """The tensor as the safetensors library gives it."""
        from safetensors import safe_open

        with safe_open(self.path, "np") as file:
            found: Array = file.get_tensor(name)
            return found


@dataclass(frozen=True, slots=True)
class Output:
    """A converted folder: its tensors by name, config.json, jaxconv.json (None without one), and what is wrong."""

    folder: Path
    tensors: Mapping[str, Stored]
    config: Mapping[str, Any]
    record: Mapping[str, Any] | None
    findings: list[str] = field(default_factory=list)


def read_output(folder: Path) -> Output:
    """Reads headers and JSON. Raises `SourceError` for a folder that is no model at all; the rest is a finding."""
    if not folder.is_dir():
        raise SourceError(f"output {folder} is no folder; expected one that jaxconv convert wrote.")
    config = read_object(folder / "config.json")
    if config is None:
        raise SourceError(f"{folder} has no config.json; expected a folder that jaxconv convert wrote.")
    output = Output(folder, {}, config, read_object(folder / "jaxconv.json"))
    tensors: dict[str, Stored] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, stored in _file(path, output.findings).items():
            if name in tensors:
                output.findings.append(f"tensor {name} is in two files, {tensors[name].path.name} and {path.name}.")
            tensors[name] = stored
    _check_index(folder, tensors, output.findings)
    return Output(folder, tensors, config, output.record, output.findings)


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file, None when there is none. Raises `SourceError` for anything else."""
    return read_optional_object(path, "Convert the source again.")


def _file(path: Path, findings: list[str]) -> dict[str, Stored]:
    """The tensors of a file that the library opens; it checks lengths and offsets."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            names, metadata = set(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        findings.append(f"{path.name} cannot be opened by the safetensors library: {error}.")
        return {}
    if metadata.get("format", "pt") != "pt":
        findings.append(f"{path.name} has the metadata format {metadata['format']!r}; loaders expect 'pt'.")
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(length))
    found = {}
    for name in names:
        entry = header[name]
        begin, end = entry["data_offsets"]
        found[name] = Stored(path, entry["dtype"], tuple(entry["shape"]), 8 + length + begin, end - begin)
    return found


def _check_index(folder: Path, tensors: Mapping[str, Stored], findings: list[str]) -> None:
    """Whether loaders find every tensor: one file of the plain name, or an index that is right."""
    files = {stored.path.name for stored in tensors.values()}
    others = sorted(path.name for pattern in OTHER_WEIGHTS for path in folder.glob(pattern))
    if others:
        findings.append(f"weights in other formats lie beside the safetensors files: {', '.join(others)}.")
    index = read_object(folder / INDEX)
    if index is None:
        if files - {SINGLE}:
            findings.append(f"there is no {INDEX}, but the tensors are in {', '.join(sorted(files))}.")
        return
    if SINGLE in files:
        findings.append(f"{SINGLE} lies beside {INDEX}: transformers would load it alone.")
    weight_map = index.get("weight_map")
    weight_map = weight_map if isinstance(weight_map, dict) else {}
    for name in sorted(weight_map.keys() | tensors.keys()):
        said = weight_map.get(name)
        lies = tensors[name].path.name if name in tensors else None
        if said != lies:
            findings.append(f"{INDEX} has {name} in {said or 'no file'}; it is in {lies or 'no file'}.")
    total = (index.get("metadata") or {}).get("total_size")
    nbytes = sum(stored.nbytes for stored in tensors.values())
    if total != nbytes:
        findings.append(f"{INDEX} has total_size {total}; the tensors have {nbytes} bytes.")
    parameters = (index.get("metadata") or {}).get("total_parameters")
    count = sum(math.prod(stored.shape) for stored in tensors.values())
    if parameters not in (None, count):
        findings.append(f"{INDEX} has total_parameters {parameters}; the tensors have {count} elements.")
