"""Orbax checkpoints, read through `_METADATA` and TensorStore, so that any topology's checkpoint opens.

StandardCheckpointer, PyTreeCheckpointer and CheckpointManager roots of orbax-checkpoint 0.5 to 0.12: OCDBT or one directory
per array, zarr or zarr3. https://orbax.readthedocs.io/en/latest/guides/checkpoint/checkpoint_format.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import Checkpoint, Extent
from jaxconv.errors import SourceError
from jaxconv.json_files import JsonDict, JsonObject, parse_json
from jaxconv.readers._streamed_chunk import database_places
from jaxconv.readers._tensorstore import Location, check_inside, open_tensors, require
from jaxconv.readers._training_state import OPTIMIZER, Keys, parameter_names
from jaxconv.storage import missing_extra

FORMAT = "orbax"
PRIORITY = 5
HAS_STEPS = True
TREE, MANIFEST = "_METADATA", "manifest.ocdbt"
# Items of a checkpoint manager that hold parameters, by priority (MaxText, Tunix, orbax's defaults).
ITEMS = ("items", "model_params", "params", "default", "state", "model")
STEP = re.compile(r"(?:[A-Za-z]\w*_)?(\d{1,18})")
UNFINISHED = re.compile(r"(?:[A-Za-z]\w*_)?(\d{1,18})\.orbax-checkpoint-tmp(?:-\d+)?")
TEMPORARY = ".orbax-checkpoint-tmp"
COMMITTED = "commit_success.txt"
MAX_TREE = 1 << 28  # bytes of _METADATA
MAX_ARRAYS = 1 << 20
NO_ARRAY = frozenset({"Dict", "List", "Tuple", "None", "scalar", "string", "str", "NamedTuple"})


def matches(weights: Path | str) -> bool:
    """Whether `weights` is an Orbax item or has one below a step. URIs are always taken for Orbax."""
    if not isinstance(weights, Path):
        return True
    try:
        return weights.is_dir() and _find(Location(weights), None)[0] is not None
    except SourceError:
        return True  # it is Orbax, and open() reports the problem


def open(weights: Path | str, step: int | None = None) -> Checkpoint:
    """The parameters of a checkpoint, without optimizer state and counters.

    Args:
        weights: A step, an item of one, or a checkpoint manager's root.
        step: The step of a manager's root; the newest whole one if None.

    Raises:
        SourceError: The checkpoint does not exist or is damaged, or TensorStore is not installed.
        RefusedError: The checkpoint does not hold the parameters of a whole model.
    """
    location = Location(weights)
    require(location)
    item, step_notes = _find(location, step)
    if item is None:
        below = ", ".join((location.folders() or [])[:8]) or "nothing"
        elsewhere = "" if isinstance(weights, Path) else f" {_elsewhere(weights)}"
        raise SourceError(
            f"{weights} holds no Orbax checkpoint (it has {below}); expected {TREE}, {MANIFEST} or steps with them. "
            f"Point at the directory of one step or item; where directories cannot be listed, pass --step.{elsewhere}"
        )
    where, files = str(item), item.identities()
    specs = _specs(item)
    names, notes = parameter_names(specs, where)
    if len(set(names.values())) != len(names):
        raise SourceError(f"{where}: two arrays have the same name; expected one of each. Save the checkpoint again.")
    tensors = open_tensors({names[keys]: specs[keys] for keys in names}, where, _places(item))
    return Checkpoint(FORMAT, where, tensors, files=files, notes=(*step_notes, *notes))


def _elsewhere(address: str) -> str:
    """What to do about another format at an address."""
    others = "Formats other than Orbax and safetensors are read from local directories only: download those."
    extra = missing_extra(address)
    return others if extra is None else f"{others} safetensors there need: pip install 'jaxconv[{extra}]'"


def _find(location: Location, step: int | None) -> tuple[Location | None, tuple[str, ...]]:
    """The item with the parameters, and notes on steps that were passed over.

    The item lies here, or in the newest whole step, or in the one that is asked for.
    """
    if _is_item(location):
        if step is not None:
            raise SourceError(f"{location} is one checkpoint, not a manager's root; --step {step} does not apply here.")
        return location, ()
    folders = location.folders()
    if folders is None:
        inside = location.child(str(step)) if step is not None else location
        return next((inside.child(item) for item in ITEMS if _is_item(inside.child(item))), None), ()
    if "checkpoints" in folders and not any(STEP.fullmatch(name) for name in folders):
        return _find(location.child("checkpoints"), step)
    item = _item(location, folders)
    if item is not None:
        return item, ()
    steps = {int(match[1]): name for name in folders if (match := STEP.fullmatch(name))}
    unfinished = _unfinished(location, folders, steps)
    if step is not None:
        return _requested_step(location, steps, unfinished, step), ()
    for number in sorted(steps.keys() - unfinished, reverse=True):
        item = _item_of_step(location.child(steps[number]))
        if item is not None:
            skipped = [f"{other}" for other in sorted({*unfinished, *steps}) if other > number]
            note = (
                f"step {', '.join(skipped)} of {location} is unfinished, so step {number}, the newest whole one, is read; "
                "choose another with --step."
            )
            return item, (note,) if skipped else ()
    return None, ()


def _requested_step(location: Location, steps: Mapping[int, str], unfinished: Set[int], step: int) -> Location:
    whole = sorted(steps.keys() - unfinished)
    listed = f"it has {', '.join(map(str, whole))}" if whole else "it has none"
    if step in unfinished:
        raise SourceError(
            f"step {step} of {location} is unfinished: its save was interrupted. Choose a whole one with --step; {listed}."
        )
    if step not in steps:
        raise SourceError(f"{location} has no step {step}; {listed}. Choose one with --step.")
    item = _item_of_step(location.child(steps[step]))
    if item is None:
        raise SourceError(f"step {step} of {location} holds no parameters. Choose another with --step; {listed}.")
    return item


def _unfinished(location: Location, folders: Sequence[str], steps: Mapping[int, str]) -> frozenset[int]:
    """The steps whose save was interrupted.

    In a file system Orbax renames a step when it is whole; in a bucket, where nothing can be renamed, it writes
    commit_success.txt last. Where no step has that file, none was written that way.
    """
    renamed = {int(match[1]) for name in folders if (match := UNFINISHED.fullmatch(name))} - steps.keys()
    committed = {number for number, name in steps.items() if location.child(name).read(COMMITTED) is not None}
    return frozenset(renamed | (steps.keys() - committed if committed else set()))


def _item_of_step(inside: Location) -> Location | None:
    return inside if _is_item(inside) else _item(inside, inside.folders() or [])


def _item(location: Location, folders: list[str]) -> Location | None:
    items = [
        name
        for name in folders
        if name not in OPTIMIZER and not STEP.fullmatch(name) and TEMPORARY not in name and _is_item(location.child(name))
    ]
    known = [name for name in ITEMS if name in items]
    if not known and len(items) > 1:
        raise SourceError(f"{location} has several items: {', '.join(items)}. Point at the one with the parameters.")
    return location.child((known or items)[0]) if items else None


def _is_item(location: Location) -> bool:
    if not isinstance(location.root, Path):
        return any(location.read(name) is not None for name in (TREE, MANIFEST))
    if any((location.root / name).is_file() for name in (TREE, MANIFEST)):
        return True
    return next(location.root.glob("*/.zarray"), None) is not None


def _specs(location: Location) -> dict[Keys, JsonDict]:
    """TensorStore specs, by path of keys."""
    raw = location.read(TREE)
    if raw is None:
        return _listed(location)
    keys, document = _tree(raw, f"{location}/{TREE}")
    database = document.get("use_ocdbt")
    if database is None:
        database = location.read(MANIFEST) is not None
    driver = "zarr3" if document.get("use_zarr3") else "zarr"
    # Older versions of Orbax do not store chunks of zeros. Where all chunks are stored, a missing one is an error.
    fill = not document.get("store_array_data_equal_to_fill_value")
    return {path: _spec(location, ".".join(path), bool(database), driver, fill) for path in keys}


def _places(location: Location) -> dict[str, Extent]:
    """Where the values of a local database lie, by key."""
    if not isinstance(location.root, Path) or not (location.root / MANIFEST).is_file():
        return {}
    return database_places(location.kvstore(), location.root)


def _spec(location: Location, name: str, database: bool, driver: str, fill: bool = True) -> JsonDict:
    """The TensorStore spec of an array. With `fill`, missing chunks are zeros."""
    if database:
        store: Any = {"driver": "ocdbt", "base": location.kvstore(), "path": f"{name}/"}
    else:
        store = location.kvstore(f"{check_inside(name, str(location))}/")
    return {"driver": driver, "kvstore": store, "fill_missing_data_reads": fill}


def _tree(raw: bytes, where: str) -> tuple[list[Keys], JsonObject]:
    """The paths of the arrays in a `_METADATA` file, and the document. Raises `SourceError` for any other JSON."""
    if len(raw) > MAX_TREE:
        raise SourceError(f"{where} has {len(raw)} bytes, more than {MAX_TREE}. Copy the checkpoint again.")
    document = parse_json(raw, where, "Copy the checkpoint again.")
    try:
        entries = document["tree_metadata"]
        paths = [path for entry in entries.values() if (path := _entry(entry)) is not None]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"{where} is not a tree of Orbax ({type(error).__name__}: {error}). Copy the checkpoint again."
        ) from None
    if not 0 < len(set(paths)) == len(paths) <= MAX_ARRAYS:
        raise SourceError(
            f"{where} lists {len(paths)} arrays, {len(set(paths))} of them distinct. Copy the checkpoint again."
        )
    return paths, document


def _entry(entry: JsonObject) -> Keys | None:
    path = tuple(str(part["key"]) for part in entry["key_metadata"])
    value = entry.get("value_metadata") or {}
    if not path or any(not part or "\0" in part for part in path):
        raise ValueError("an entry has an empty key")
    return None if value.get("value_type") in NO_ARRAY or value.get("skip_deserialize") else path


def _listed(location: Location) -> dict[Keys, JsonDict]:
    """The arrays that the database or the directory lists, for checkpoints without `_METADATA`."""
    if location.read(MANIFEST) is not None:
        import tensorstore

        try:
            store = tensorstore.KvStore.open({"driver": "ocdbt", "base": location.kvstore()}).result()
            keys = [key.decode() for key in store.list().result()]
        except (ValueError, OSError) as error:
            raise SourceError(f"{location}/{MANIFEST} does not open: {error}. Copy the checkpoint again.") from None
    else:
        keys = [f"{name}/{kind}" for name in location.folders() or [] for kind in (".zarray", "zarr.json")
                if location.child(name).read(kind) is not None]  # fmt: skip
    drivers = {".zarray": "zarr", "zarr.json": "zarr3"}
    arrays = [key.rsplit("/", 1) for key in keys if key.rsplit("/", 1)[-1] in drivers and "/" in key]
    database = location.read(MANIFEST) is not None
    return {tuple(name.split(".")): _spec(location, name, database, drivers[kind]) for name, kind in arrays}
