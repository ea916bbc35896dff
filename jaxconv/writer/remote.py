"""An output in an object store: every file is a multipart upload that is streamed while it is computed.

A file appears only when its upload is completed. `config.json`, which makes a model of a folder, is held back until the rest
is there: `writer/remote_publish.py` writes it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxconv.checkpoint import Extent
from jaxconv.storage import File, RemotePath, storage_errors
from jaxconv.writer.destination import Progress, Sink, copy_blocks
from jaxconv.writer.io_errors import writing_output

CONFIG = "config.json"
PART = 1 << 24  # bytes of a part, as long as there are few enough of them
MAX_PARTS = 9_000  # S3 takes 10,000
COPIES = ("s3", "gs", "az", "abfs", "abfss", "memory")  # stores that copy a file without sending it here


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A folder of an object store that takes the files of an output.

    Attributes:
        folder: Where it is.
        held_back: The content of config.json, once it is known.
    """

    folder: RemotePath
    held_back: dict[str, bytes] = field(default_factory=dict)

    @property
    def local(self) -> None:
        """It is on no machine of ours."""
        return None

    @contextlib.contextmanager
    def create(self, name: str, nbytes: int) -> Iterator[Sink]:
        """A new file `name` of `nbytes` bytes. After an error its upload is given up, and nothing appears."""
        path = self.folder / name
        with storage_errors(path.address):
            part = -(-max(PART, nbytes // MAX_PARTS + 1) // PART) * PART
            file = path.store.open(path.key, "wb", block_size=part)
        upload = _Upload(file, path.address)
        try:
            yield upload
            try:
                upload.finish(nbytes)
            except OSError:
                if self.size(name) != nbytes:  # else the store's answer was lost, and a second request came too late
                    raise
        except BaseException:
            _give_up(file)
            raise

    def take(self, source: File, name: str, copy_mode: str) -> str | None:
        """Has the store copy `source` to `name` if both lie in it, whatever `copy_mode` is: nothing else is cheaper there."""
        path = self.folder / name
        if not isinstance(source, RemotePath) or source.store is not path.store or not path.address.startswith(COPIES):
            return None
        with storage_errors(path.address):
            path.store.cp_file(source.key, path.key)
        return "copy"

    def write(self, files: Mapping[str, bytes]) -> None:
        """Writes `files`; config.json is kept for the end."""
        for name, content in files.items():
            if name == CONFIG:
                self.held_back[name] = content
            else:
                with writing_output(name):
                    put(self.folder / name, content)

    def size(self, name: str) -> int | None:
        """The size of the file `name`; None if it does not exist."""
        try:
            return int((self.folder / name).info()["size"])
        except FileNotFoundError:
            return None

    def file(self, name: str) -> RemotePath:
        """Where the file `name` is."""
        return self.folder / name


def put(path: RemotePath, content: bytes, *, new: bool = False) -> None:
    """Writes a small file in one request.

    Args:
        path: Where.
        content: What.
        new: Whether it is an error if the file exists, in stores that can tell.

    Raises:
        OSError: It cannot be written.
    """
    with storage_errors(path.address):
        if new:
            path.store.pipe_file(path.key, content, mode="create")
        else:
            path.store.pipe_file(path.key, content)


class _Upload:
    """A file of a store, which takes bytes in order; blocks that come a little early wait."""

    def __init__(self, file: Any, address: str) -> None:
        self._file, self._address, self._end = file, address, 0
        self._early: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def write(self, view: memoryview, offset: int) -> None:
        with self._lock:
            if offset != self._end:
                self._early[offset] = bytes(view)
                return
            self._append(view)
            while (content := self._early.pop(self._end, None)) is not None:
                self._append(memoryview(content))

    def mapped(self, offset: int, nbytes: int) -> None:
        """Parts of an upload come in order."""

    def copy(self, extent: Extent, offset: int, progress: Progress) -> None:
        copy_blocks(extent, self, offset, progress)

    def finish(self, nbytes: int) -> None:
        """Completes the file of `nbytes` bytes."""
        assert self._end == nbytes and not self._early, f"{self._address}: {self._end} of {nbytes} bytes were written"
        with storage_errors(self._address):
            self._file.close()

    def _append(self, view: memoryview) -> None:
        with storage_errors(self._address):
            for start in range(0, len(view), PART):
                self._file.write(view[start : start + PART])
        self._end += len(view)


def _give_up(file: Any) -> None:
    """Ends an upload without a file. Otherwise the library would try to complete it when it collects the object."""
    with contextlib.suppress(Exception):
        file.discard()
    with contextlib.suppress(AttributeError):
        file.closed = True
