"""EasyDeL's directories: config.json, a zarr directory per array, and their index (EasyDeL 0.3, eformer's serialization)."""

from __future__ import annotations

from pathlib import Path

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import SourceError
from jaxconv.json_files import JsonDict, read_object
from jaxconv.readers._tensorstore import Location, check_inside, open_tensors, require
from jaxconv.readers._training_state import parameter_names

FORMAT = "easydel"
PRIORITY = 4
HAS_STEPS = False
INDEX = "tensorstore_index.json"


def matches(weights: Path | str) -> bool:
    """Whether `weights` is a directory with the index."""
    return isinstance(weights, Path) and (weights / INDEX).is_file()


def open(weights: Path | str, step: int | None = None) -> Checkpoint:
    """The arrays of the index.

    Args:
        weights: The directory.
        step: Not used: a directory holds one step.

    Raises:
        SourceError: The index is damaged, an array is missing, or TensorStore is not installed.
        RefusedError: The arrays are not a whole model.
    """
    location = Location(Path(weights))
    require(location)
    files = location.identities()
    entries = _entries(Path(weights) / INDEX)
    arrays = {_keys(prefix, path): _spec(location, prefix, path) for prefix, path in entries}
    if len(arrays) != len(entries):
        raise SourceError(f"{location}/{INDEX} lists an array twice; expected each once. Copy the checkpoint again.")
    names, notes = parameter_names(arrays, str(weights))
    tensors = open_tensors({names[keys]: arrays[keys] for keys in names}, str(weights))
    return Checkpoint(FORMAT, str(weights), tensors, files=files, notes=notes)


def _entries(index: Path) -> list[tuple[str, str]]:
    document = read_object(index, "EasyDeL's index of the arrays")
    try:
        prefixes = document["prefixes"]
        return [(prefix, check_inside(entry["path"], str(index))) for prefix, group in prefixes.items() for entry in group]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SourceError(f"{index} is not an index of EasyDeL ({error!r}). Copy the checkpoint again.") from None


def _keys(prefix: str, path: str) -> tuple[str, ...]:
    """The path without the item's directory: `model/model/norm/kernel` and `model/lm_head/kernel` lie in item `model`.

    Training states list other items, `tx` for the optimizer, whose name stays in front.
    """
    keys = tuple(path.split("/"))
    inside = keys[1:] if keys[0] == prefix and keys[1:2] in (("model",), ("lm_head",), ("score",)) else keys
    return inside if prefix == "model" else (prefix, *keys)


def _spec(location: Location, prefix: str, path: str) -> JsonDict:
    folder = path if (Path(str(location)) / path).is_dir() else f"{check_inside(prefix, str(location))}/{path}"
    driver = "zarr3" if (Path(str(location)) / folder / "zarr.json").is_file() else "zarr"
    return {"driver": driver, "kvstore": location.kvstore(f"{folder}/")}
