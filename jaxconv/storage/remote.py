"""A file or folder of an object store, through fsspec."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxconv.errors import SourceError
from jaxconv.storage.identity import FileIdentity

# What tells one state of an object from the next, by store: S3, Google, Azure, the hub, memory.
VERSION_KEYS = ("ETag", "etag", "generation", "blob_id", "LastModified", "last_modified", "created")
MAX_SMALL = 1 << 28  # bytes of a file that is read whole


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file or folder of an object store, with those methods of `pathlib.Path` that readers need. Failures are OSErrors."""

    address: str
    store: Any = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.address}/{name}", self.store)

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.address.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder that holds it."""
        return RemotePath(self.address.rpartition("/")[0], self.store)

    @property
    def key(self) -> str:
        """The path as the store's library takes it."""
        return str(self.store._strip_protocol(self.address))

    def info(self) -> Mapping[str, Any]:
        """What the store says of it now. Raises `FileNotFoundError` if it does not exist."""
        with storage_errors(self.address):
            self.store.invalidate_cache()
            information: Mapping[str, Any] = self.store.info(self.key)
            return information

    def is_file(self) -> bool:
        """Whether an object has this name."""
        try:
            return bool(self.info()["type"] == "file")
        except FileNotFoundError:
            return False

    def identity(self) -> FileIdentity:
        """Its size, and the store's name for its present state."""
        information = self.info()
        return FileIdentity((), int(information["size"]), _version(information))

    def entries(self) -> dict[str, int | None]:
        """What lies in this folder: name -> size in bytes, None of a folder. Empty if there is nothing."""
        with storage_errors(self.address):
            self.store.invalidate_cache()
            try:
                listed = self.store.ls(self.key, detail=True)
            except FileNotFoundError:
                return {}
        prefix = self.key.strip("/") + "/"
        names = {str(entry["name"]).strip("/"): entry for entry in listed}
        return {
            name.removeprefix(prefix): None if entry["type"] == "directory" else int(entry["size"])
            for name, entry in names.items()
            if name.startswith(prefix) and name != prefix
        }

    def read_bytes(self) -> bytes:
        """The content of a small file. Raises `SourceError` for one that is too large to be held."""
        size = int(self.info()["size"])
        if size > MAX_SMALL:
            raise SourceError(f"{self} has {size} bytes; expected at most {MAX_SMALL} of such a file. Remove or replace it.")
        return self.read_range(0, size)

    def read_range(self, offset: int, length: int) -> bytes:
        """Bytes of the file; fewer than `length` only at its end.

        Args:
            offset: The first byte.
            length: How many.
        """
        with storage_errors(self.address):  # its library tries again where a connection breaks
            return bytes(self.store.cat_file(self.key, start=offset, end=offset + length))


@dataclass(frozen=True, slots=True)
class RemoteTree(RemotePath):
    """A folder of a store with everything in it, as one thing that changes or does not."""

    def identity(self) -> FileIdentity:
        """The sizes and states of all files."""
        with storage_errors(self.address):
            self.store.invalidate_cache()
            listed = self.store.find(self.key, detail=True)
        sizes = {str(name): int(entry["size"]) for name, entry in listed.items()}
        states = sorted((name, sizes[name], _version(entry)) for name, entry in listed.items())
        return FileIdentity((), sum(sizes.values()), hashlib.sha256(repr(states).encode()).hexdigest())


def _version(information: Mapping[str, Any]) -> str:
    return str(next((information[key] for key in VERSION_KEYS if information.get(key) is not None), ""))


@contextlib.contextmanager
def storage_errors(address: str) -> Iterator[None]:
    """Turns whatever a store's library raises in the block into an OSError that names the `address` and no secret."""
    try:
        yield
    except Exception as error:  # each library has errors of its own
        kinds = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
        number = next((number for kind, number in kinds.items() if isinstance(error, kind)), errno.EIO)
        raise OSError(number, reason(error), address) from error


def reason(error: BaseException) -> str:
    """What an `error` of a store's library says, on one line, without the queries of the addresses in it."""
    strerror = getattr(error, "strerror", None)
    text = strerror if isinstance(strerror, str) else str(error)
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return re.sub(r"://[^/\s@]*@", "://", re.sub(r"(\w+://[^\s?'\"]*)\?[^\s'\")]*", r"\1", first))[:400].rstrip(".")
