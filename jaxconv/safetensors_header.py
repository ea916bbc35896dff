"""The header of a safetensors file: parsed with every claim checked, and built.

Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, data).
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from jaxconv.checkpoint import DTYPE_BITS
from jaxconv.errors import SourceError
from jaxconv.file_errors import unreadable
from jaxconv.json_files import JsonDict, Pairs, Unchecked, parse_json
from jaxconv.storage import File, FileIdentity, identity_of, read_blocks

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation
ENTRY = ("dtype", "shape", "data_offsets")
DTYPES = {name: name for name in DTYPE_BITS}  # a name is kept once, however many tensors have it
FIRST_READ = 100_000  # bytes, in which most headers end
MAX_NUMBER = 1 << 63  # no dimension or offset is larger
REMEDY = "Download it again."


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a header: its safetensors dtype name, its shape, and its bytes within the data section."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: tensors by name in file order, `__metadata__`, where the data starts, and which file it was."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    data_start: int
    identity: FileIdentity


def read_header(path: File) -> Header:
    """Reads and checks the header of the file at `path`.

    Raises:
        SourceError: The file is truncated, its header is damaged, or its tensors overlap or leave bytes unclaimed.
    """
    with uncollected():
        return _checked_header(path)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Leaves the collector of circular garbage aside, which would look at a million new objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _checked_header(path: File) -> Header:
    document, data_start, identity = _read_document(path)
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise SourceError(f"{path}: __metadata__ is {type(metadata).__name__}; expected an object of strings. {REMEDY}")
    entries = [(name, _entry(path, name, value)) for name, value in document.items()]
    entries.sort(key=lambda item: (item[1].begin, item[1].end))
    _check_contiguous(path, entries, data_start, identity.size)
    return Header(dict(entries), {key: str(value) for key, value in metadata.items()}, data_start, identity)


def _read_document(path: File) -> tuple[JsonDict, int, FileIdentity]:
    """The JSON of the header, the offset of the data, and the identity of the file."""
    try:
        identity = identity_of(path)
        size = identity.size
        if size < 8:
            raise SourceError(f"{path} has {size} bytes; a safetensors file has at least 8. {REMEDY}")
        start = b"".join(read_blocks(path, 0, min(size, FIRST_READ)))
        length = int.from_bytes(start[:8], "little")
        if length > min(size - 8, MAX_HEADER):
            raise SourceError(
                f"{path}: the header claims {length} bytes, the file has {size} (limit {MAX_HEADER}). "
                "It is truncated or not a safetensors file; download it again."
            )
        raw = start[8 : 8 + length] + b"".join(read_blocks(path, len(start), 8 + length - len(start)))
    except OSError as error:
        raise unreadable(path, error) from None
    document = parse_json(raw, f"{path}: the header", REMEDY, _compact)
    if not isinstance(document, dict):
        raise SourceError(f"{path}: the header is a JSON {type(document).__name__}; expected an object. {REMEDY}")
    return document, 8 + length, identity


def _compact(pairs: Pairs) -> Unchecked:
    """An object of the header: a tensor as its three values in a row, which take a third of a dict, and others as a dict."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name occurs twice")
    return tuple(document[key] for key in ENTRY) if document.keys() >= set(ENTRY) else document


def _entry(path: File, name: str, value: Unchecked) -> Entry:
    """One checked entry of a header."""
    try:
        stored, sizes, (begin, end) = value if type(value) is tuple else ()  # no other JSON value becomes a tuple
        dtype, shape = DTYPES.get(stored, stored), tuple(sizes)
    except (TypeError, KeyError, ValueError):
        raise SourceError(f"{path}: tensor {name} lacks dtype, shape or data_offsets: {value!r:.200}. {REMEDY}") from None
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise SourceError(f"{path}: tensor {name} has the unknown dtype {dtype!r:.60}; known: {', '.join(DTYPE_BITS)}.")
    numbers = (*shape, begin, end)
    if not all(type(number) is int and 0 <= number < MAX_NUMBER for number in numbers) or begin > end:
        raise SourceError(
            f"{path}: tensor {name} has shape {list(shape)!r:.200} and data_offsets {[begin, end]!r:.200}; "
            f"expected whole numbers of zero or more. {REMEDY}"
        )
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != (end - begin) * 8:
        raise SourceError(
            f"{path}: tensor {name} of {dtype} {list(shape)!r:.200} needs {-(-bits // 8)} bytes, "
            f"its offsets give {end - begin}. {REMEDY}"
        )
    return Entry(dtype, shape, begin, end)


def _check_contiguous(path: File, entries: Iterable[tuple[str, Entry]], data_start: int, file_size: int) -> None:
    end = 0
    for name, entry in entries:
        if entry.begin != end:
            kind = "overlaps" if entry.begin < end else "leaves a hole after"
            raise SourceError(f"{path}: tensor {name} at byte {entry.begin} {kind} the one that ends at {end}. {REMEDY}")
        end = entry.end
    if data_start + end != file_size:
        state = "truncated" if data_start + end > file_size else "followed by bytes that no tensor owns"
        raise SourceError(f"{path} is {state}: it has {file_size} bytes, its header describes {data_start + end}. {REMEDY}")


def header_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...], int]], metadata: Mapping[str, str]) -> bytes:
    """The length prefix and JSON header of a file.

    Args:
        tensors: Name -> (dtype, shape, size in bytes), in file order.
        metadata: The content of `__metadata__`; left out if empty.

    Returns:
        The bytes, padded with spaces to a multiple of 8 as the reference implementation does.
    """
    header: JsonDict = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for name, (dtype, shape, nbytes) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + nbytes]}
        begin += nbytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def format_of(metadata: Mapping[str, str]) -> str:
    """The name of the checkpoint format, by the file's `metadata`: Flax writes safetensors too, with its own tensor names."""
    return "flax_safetensors" if metadata.get("format") == "flax" else "safetensors"
