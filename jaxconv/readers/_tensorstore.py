"""Arrays that TensorStore opens: zarr and zarr3, one directory each or inside an OCDBT database, local or by URI."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import BOX, SAFETENSORS_NAMES, Array, Box, Boxes, Extent, TensorRef, numpy_dtype, whole_place
from jaxconv.errors import SourceError
from jaxconv.file_errors import reading
from jaxconv.json_files import JsonDict, JsonObject
from jaxconv.readers._last_read import LastRead
from jaxconv.readers._streamed_chunk import streamed
from jaxconv.storage import File, FileIdentity, RemotePath, RemoteTree, available, identities_of

MAX_PART = 255  # bytes of a name between two slashes on Linux
MAX_PADDING = 1 << 26  # bytes by which a chunk may exceed twice its array
BATCH = 64  # arrays that are opened at once
SHOWN = 450  # characters of TensorStore's messages, which name a file at every storey of its drivers
RETRIES = 5  # of a request to a server; TensorStore's own 32 take a quarter of an hour


@dataclass(frozen=True, slots=True)
class Location:
    """A directory: a local path, or a URI of a TensorStore key-value driver (gs, s3, http)."""

    root: Path | str

    def __str__(self) -> str:
        return str(self.root)

    def child(self, name: str) -> Location:
        """The directory `name` below this one."""
        return Location(self.root / name if isinstance(self.root, Path) else f"{self.root}/{name}")

    def read(self, name: str) -> bytes | None:
        """The bytes of the file `name` in this directory, or None if it does not exist.

        Raises:
            SourceError: The store cannot be reached.
        """
        if isinstance(self.root, Path):
            with reading(self.root / name):
                return (self.root / name).read_bytes() if (self.root / name).is_file() else None
        try:
            result = _store(self.root).read(name).result()
        except (ValueError, OSError) as error:
            raise SourceError(f"{self.root}/{name} cannot be read: {_first_line(error)}. Check address and access.") from None
        return bytes(result.value) if result.state == "value" else None

    def folders(self) -> list[str] | None:
        """The names of the directories below; None if the store cannot list (http)."""
        if isinstance(self.root, Path):
            with reading(self.root):
                return sorted(entry.name for entry in self.root.iterdir() if entry.is_dir()) if self.root.is_dir() else []
        try:
            keys = _store(self.root).list().result()
        except (ValueError, OSError, NotImplementedError):
            return None
        return sorted({key.decode(errors="replace").split("/")[0] for key in keys if b"/" in key})

    def identities(self) -> dict[File, FileIdentity]:
        """The files below as they are now, to notice that one changes; empty where fsspec cannot list them."""
        if isinstance(self.root, Path):
            return identities_of(self.root.rglob("*"))
        folder = available(self.root)
        if not isinstance(folder, RemotePath):
            return {}
        tree = RemoteTree(folder.address, folder.store)
        try:
            return {tree: tree.identity()}
        except OSError:  # TensorStore has credentials of its own
            return {}

    def kvstore(self, path: str = "") -> JsonDict | str:
        """This directory, or the one at `path` below it, as a TensorStore key-value store."""
        if isinstance(self.root, Path):
            return {"driver": "file", "path": f"{self.root.resolve()}/{path}"}
        return _remote(f"{self.root}/{path}")


def _remote(address: str) -> JsonDict | str:
    """A URI as TensorStore takes it. `AWS_ENDPOINT_URL_S3` and `AWS_ENDPOINT_URL` count, as they do for AWS's own tools."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint is None or not address.startswith("s3://"):
        return address
    bucket, _, path = address.removeprefix("s3://").partition("/")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return {"driver": "s3", "bucket": bucket, "path": path, "endpoint": endpoint, "aws_region": region}


def _context() -> Any:
    """No cache, and few enough retries that a server which does not answer fails within half a minute."""
    import tensorstore

    retries = {"max_retries": RETRIES, "max_delay": "4s"}
    remote = {f"{store}_request_retries": retries for store in ("gcs", "s3", "http")}
    return tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}, **remote})


def require(where: Location) -> None:
    """Checks that TensorStore is installed to read `where`.

    Raises:
        SourceError: It is not; the message has the pip command.
    """
    if importlib.util.find_spec("tensorstore") is None:
        raise SourceError(f"{where} needs tensorstore to be read. Install it with: pip install 'jaxconv[orbax]'")


def check_inside(path: str, where: str) -> str:
    """The path, once it is known to stay within its directory.

    Args:
        path: A relative path that a checkpoint names, with slashes.
        where: The file that names it, for the message.

    Raises:
        SourceError: The path leads elsewhere.
    """
    parts = path.split("/")
    odd = "\0" in path or "\\" in path or any(part in ("", ".", "..") or len(part) > MAX_PART for part in parts)
    if odd:
        raise SourceError(
            f"{where} names the array {path[:200]!r}, which is not a path inside the checkpoint. "
            "Do not use this checkpoint before you know where it comes from."
        )
    return path


def open_tensors(
    specs: Mapping[str, JsonObject], where: str, places: Mapping[str, Extent] | None = None
) -> dict[str, TensorRef]:
    """References to the arrays of TensorStore specs, by name.

    Args:
        specs: Name of each tensor -> its TensorStore spec.
        where: The checkpoint, for messages.
        places: Where the values of its database lie in local files, by key.

    Raises:
        SourceError: An array does not open, or its dtype is not one of safetensors.
    """
    import tensorstore

    context = _context()
    tensors = {}
    names = list(specs)
    for start in range(0, len(names), BATCH):
        opening = {name: tensorstore.open(specs[name], read=True, context=context) for name in names[start : start + BATCH]}
        for name, future in opening.items():
            try:
                tensors[name] = _tensor(name, future.result(), where, places or {})
            except (ValueError, OSError, OverflowError) as error:
                raise SourceError(
                    f"{where}: array {name} does not open: {_first_line(error)}. The checkpoint is incomplete or damaged; "
                    "copy it again."
                ) from None
    return tensors


# What to do about arrays that NumPy and safetensors have no dtype for.
FOUR_BITS = (
    "Codes of 4 bits are not read. Convert the parameters from before quantisation (the trained checkpoint), or dequantise "
    "in the library that wrote them (Qwix: qwix.dequantize of each array) and save the result in bfloat16."
)
NEXT_STEPS = {"int4": FOUR_BITS, "uint4": FOUR_BITS, "float4_e2m1fn": FOUR_BITS}
OTHER = "Save the array as a float or integer of 8 bits or more."


def _tensor(name: str, array: Any, where: str, places: Mapping[str, Extent]) -> TensorRef:
    stored = array.dtype.name
    if stored not in SAFETENSORS_NAMES:
        raise SourceError(
            f"{where}: array {name} is of dtype {stored}; expected a number type of safetensors. "
            f"{NEXT_STEPS.get(stored, OTHER)}"
        )

    itemsize = numpy_dtype(SAFETENSORS_NAMES[stored]).itemsize
    chunk_shape = tuple(array.chunk_layout.read_chunk.shape or ())  # None of an array without dimensions
    chunk = math.prod(chunk_shape) * itemsize
    if chunk > MAX_PADDING + 2 * math.prod(array.shape) * itemsize:  # TensorStore would allot it, and abort the process
        raise SourceError(
            f"{where}: array {name} of shape {list(array.shape)} is stored in chunks of {chunk} bytes, more than it "
            "has. The checkpoint is damaged; copy it again."
        )

    what = f"{where}: array {name}"
    whole = LastRead(lambda: _fetch(array, what))
    one_chunk = chunk_shape == tuple(array.shape)  # which TensorStore decodes as a whole for any row
    boxes = None
    if math.prod(array.shape) * itemsize > BOX:
        streaming = streamed(array, SAFETENSORS_NAMES[stored], places, what) if one_chunk else None
        boxes = streaming or _chunked(array, chunk_shape, itemsize, what)

    def take(ids: Sequence[int], axis: int) -> Array:
        import tensorstore

        if whole.held or (one_chunk and (boxes is None or axis != 0)):
            return whole.read().take(list(ids), axis)
        if one_chunk and boxes is not None:
            return _rows(boxes, ids)
        return _fetch(array[tensorstore.d[axis][list(ids)]], what)

    return TensorRef(name, SAFETENSORS_NAMES[stored], tuple(array.shape), whole.read, take, boxes=boxes)


def _fetch(view: Any, what: str) -> Array:
    import numpy as np
    import tensorstore

    try:
        values = np.empty(view.shape, view.dtype.numpy_dtype)  # NumPy allocates in huge pages, TensorStore's read does not
        tensorstore.array(values).write(view).result()
    except (ValueError, OSError, MemoryError) as error:
        raise SourceError(f"{what} cannot be read: {_first_line(error)}. Copy it again.") from None
    return values


def _chunked(array: Any, chunk_shape: tuple[int, ...], itemsize: int, what: str) -> Boxes | None:
    """Parts of whole chunks, as many along the last axes as fit; None if a chunk is larger than a part may be."""
    sides = list(chunk_shape)
    if math.prod(sides) * itemsize > BOX:
        return None
    for axis in reversed(range(len(sides))):
        room = max(1, BOX // (math.prod(sides) * itemsize))
        sides[axis] *= min(room, -(-array.shape[axis] // sides[axis]))

    def read() -> Iterator[Box]:
        for start in itertools.product(*(range(0, size, side) for size, side in zip(array.shape, sides, strict=True))):
            ends = (min(size, first + side) for size, first, side in zip(array.shape, start, sides, strict=True))
            yield start, _fetch(array[tuple(slice(first, end) for first, end in zip(start, ends, strict=True))], what)

    cut = frozenset(axis for axis, size in enumerate(array.shape) if sides[axis] < size)
    return Boxes(read, tuple(array.shape), whole_place, cut)


def _rows(boxes: Boxes, ids: Sequence[int]) -> Array:
    """Slices of the first axis, from an array that is read no further than the last of them."""
    import numpy as np

    rows: dict[int, Array] = {}
    for start, values in boxes.read():
        rows |= {row: values[row - start[0]].copy() for row in ids if 0 <= row - start[0] < values.shape[0]}
        if len(rows) == len(set(ids)):
            break
    return np.stack([rows[row] for row in ids])


def _store(root: str) -> Any:
    import tensorstore

    return tensorstore.KvStore.open(_remote(f"{root}/"), context=_context()).result()


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()[0].split(" [")[0] if str(error).strip() else type(error).__name__
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 3]} … {text[-SHOWN * 2 // 3 :]}"  # the reason comes last
