"""The output's side: its JSON files, and where every tensor lies, as the safetensors library reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxconv.checkpoint import Array, TensorRef
from jaxconv.errors import SourceError
from jaxconv.json_files import JsonDict, JsonObject, read_optional_object

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
        """The tensor `name` as the safetensors library gives it."""
        from safetensors import safe_open

        with safe_open(self.path, "np") as file:
            tensor: Array = file.get_tensor(name)
            return tensor

    def rows(self, name: str, ids: Sequence[int]) -> Array:
        """Rows of the tensor as the safetensors library gives them.

        Args:
            name: The tensor's name in the file.
            ids: The indices on the first axis.

        Returns:
            [len(ids), ...], in the order of `ids`.
        """
        import numpy as np
        from safetensors import safe_open

        with safe_open(self.path, "np") as file:
            tensor = file.get_slice(name)
            return np.concatenate([tensor[index : index + 1] for index in ids])

    def reference(self, name: str) -> TensorRef:
        """The tensor `name` as a reference that reads it when it is needed."""
        return TensorRef(
            name, self.dtype, self.shape, lambda: self.array(name), lambda ids, axis: self.array(name).take(list(ids), axis)
        )


@dataclass(frozen=True, slots=True)
class Output:
    """A converted directory: its tensors by name, config.json, jaxconv.json (None without one), and what is wrong."""

    folder: Path
    tensors: Mapping[str, Stored]
    config: JsonObject
    record: JsonObject | None
    findings: list[str] = field(default_factory=list)


def read_output(folder: Path) -> Output:
    """Reads the headers and JSON files of the output directory `folder`.

    Raises:
        SourceError: The directory does not exist or holds no model; everything else is a finding.
    """
    if not folder.is_dir():
        raise SourceError(f"output {folder} is not a directory; expected one that jaxconv convert wrote.")
    config = read_object(folder / "config.json")
    if config is None:
        raise SourceError(f"{folder} has no config.json; expected a directory that jaxconv convert wrote.")
    output = Output(folder, {}, config, read_object(folder / "jaxconv.json"))
    tensors: dict[str, Stored] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, stored in stored_tensors(path, output.findings).items():
            if name in tensors:
                output.findings.append(f"tensor {name} is in two files, {tensors[name].path.name} and {path.name}.")
            tensors[name] = stored
        output.findings.extend(_check_format(path))
    _check_index(folder, tensors, output.findings)
    if (folder / "adapter_config.json").exists():
        output.findings.append("adapter_config.json lies beside the weights: transformers would load an adapter.")
    return Output(folder, tensors, config, output.record, output.findings)


def read_object(path: Path) -> JsonDict | None:
    """The JSON object in the file `path` of the output, None if it does not exist. Raises `SourceError` for anything else."""
    return read_optional_object(path, "Convert the source again.")


def stored_tensors(path: Path, findings: list[str]) -> dict[str, Stored]:
    """The tensors of a safetensors file that the library opens; it checks lengths and offsets.

    Args:
        path: The file.
        findings: A file that the library does not open is appended here.

    Returns:
        Name -> where the tensor lies; empty for a file that was not opened.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            names = set(file.keys())
    except (SafetensorError, OSError) as error:
        findings.append(f"{path.name} cannot be opened by the safetensors library: {error}.")
        return {}
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(length))
    tensors = {}
    for name in names:
        entry = header[name]
        begin, end = entry["data_offsets"]
        tensors[name] = Stored(path, entry["dtype"], tuple(entry["shape"]), 8 + length + begin, end - begin)
    return tensors


def _check_format(path: Path) -> Iterator[str]:
    """Whether loaders take a file for PyTorch's."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            kind = (file.metadata() or {}).get("format", "pt")
    except (SafetensorError, OSError):  # a finding already
        return
    if kind != "pt":
        yield f"{path.name} has the metadata format {kind!r}; loaders expect 'pt'."


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
        indexed = weight_map.get(name)
        actual = tensors[name].path.name if name in tensors else None
        if indexed != actual:
            findings.append(f"{INDEX} has {name} in {indexed or 'no file'}; it is in {actual or 'no file'}.")
    metadata = index.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    total = metadata.get("total_size")
    nbytes = sum(stored.nbytes for stored in tensors.values())
    if total != nbytes:
        findings.append(f"{INDEX} has total_size {total}; the tensors have {nbytes} bytes.")
    parameters = metadata.get("total_parameters")
    count = sum(math.prod(stored.shape) for stored in tensors.values())
    if parameters not in (None, count):
        findings.append(f"{INDEX} has total_parameters {parameters}; the tensors have {count} elements.")
