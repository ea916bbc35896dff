"""The object that says that an output in a store is being made, and removes what a killed conversion left there.

    .jaxconv-staging.json   {"run", "host", "pid", "beat", "files"}

It is written before the first file and removed after `config.json`. `files` are the names that the conversion writes or
removes; whoever finds a marker without `config.json` deletes these, and no others. A store has no locks, so the owner of a
marker counts up `beat` every few seconds: a marker that stands still belongs to nobody.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxconv.errors import OutputError
from jaxconv.file_errors import reading
from jaxconv.storage import RemotePath, storage_errors
from jaxconv.writer.remote import CONFIG, put
from jaxconv.writer.sweep import Leftover

MARKER = ".jaxconv-staging.json"
BEAT_SECONDS = 10
WATCH_SECONDS = 30  # that a marker must stand still


@dataclass(frozen=True, slots=True)
class Marker:
    """Who makes an output.

    Attributes:
        run: A random name of the conversion.
        host: Where its first process runs.
        pid: The number of that process.
        files: The names of the files that it writes or removes.
        beat: How often it has said that it is alive.
    """

    run: str
    host: str
    pid: int
    files: tuple[str, ...]
    beat: int = 0

    @staticmethod
    def of_this_process(files: Sequence[str]) -> Marker:
        """A new marker of a conversion that writes or removes `files`."""
        return Marker(secrets.token_hex(8), socket.gethostname(), os.getpid(), tuple(files))

    def to_bytes(self) -> bytes:
        """The content of the object."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @property
    def died_here(self) -> bool:
        """Whether its process was one of this host and is gone. A process of the same number as ours is not us."""
        if self.host != socket.gethostname():
            return False
        if self.pid == os.getpid():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False


def read_marker(folder: RemotePath) -> Marker | None:
    """The marker in an output's folder.

    Args:
        folder: The folder.

    Raises:
        OSError: The store cannot be read.
    """
    try:
        raw = (folder / MARKER).read_bytes()
    except FileNotFoundError:
        return None
    try:
        document = json.loads(raw)
        names = [name for name in document["files"] if _is_inside(name)]
        return Marker(str(document["run"]), str(document["host"]), int(document["pid"]), tuple(names), int(document["beat"]))
    except (ValueError, KeyError, TypeError):
        return Marker("", "", 0, ())  # another program's: it names no files


def _is_inside(name: object) -> bool:
    return isinstance(name, str) and bool(name) and not {"", ".", ".."} & set(name.split("/"))


def check_abandoned(folder: RemotePath, marker: Marker) -> None:
    """Waits until it is known that nobody makes the output.

    Args:
        folder: The folder of the output.
        marker: The marker in it.

    Raises:
        OutputError: Another conversion is at work there.
    """
    deadline = time.monotonic() + WATCH_SECONDS
    while not marker.died_here and time.monotonic() < deadline:
        time.sleep(1)
        current = read_marker(folder)
        if current is None:
            return
        if current != marker:
            raise OutputError(
                f"another conversion into {folder} is running (process {current.pid} on {current.host}). "
                "Wait until it is done, or name another output."
            )


def remove(folder: RemotePath, names: Sequence[str]) -> None:
    """Deletes files of a folder and their unfinished uploads. A file that does not exist is not an error.

    Args:
        folder: The folder.
        names: The names of the files.

    Raises:
        OSError: One of them cannot be deleted.
    """
    _abort_uploads(folder, names)
    for name in names:
        path = folder / name
        with contextlib.suppress(FileNotFoundError), storage_errors(path.address):
            path.store.rm_file(path.key)


def _abort_uploads(folder: RemotePath, names: Sequence[str]) -> None:
    """Ends the multipart uploads of S3, whose parts are kept and paid for; other stores forget theirs within a week."""
    if not folder.address.startswith("s3://"):
        return
    with storage_errors(folder.address):
        bucket, prefix, _ = folder.store.split_path(folder.key)
        keys = {f"{prefix}/{name}".lstrip("/") for name in names}
        listed = folder.store.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/".lstrip("/"))
        for upload in listed.get("Uploads", ()):
            if upload["Key"] in keys:
                folder.store.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def sweep(folder: RemotePath) -> int | None:
    """Removes what a killed conversion left in an output's folder; a complete output stays.

    Args:
        folder: The folder.

    Returns:
        How many files it named; None if there was no marker.

    Raises:
        OutputError: Another conversion is at work there.
        OSError: Something cannot be deleted.
    """
    marker = read_marker(folder)
    if marker is None:
        return None
    check_abandoned(folder, marker)
    complete = (folder / CONFIG).is_file()
    remove(folder, [MARKER] if complete else [*marker.files, MARKER])
    return 0 if complete else len(marker.files)


def sweep_folder(folder: RemotePath) -> list[Leftover]:
    """Removes what killed conversions left in `folder`, an output or a folder of outputs.

    Raises:
        SourceError: The store cannot be read.
    """
    with reading(folder):
        inner = [folder / name for name, size in folder.entries().items() if size is None]
        places = [place for place in (folder, *inner) if (place / MARKER).is_file()]
    return [_swept(place) for place in places]


def _swept(folder: RemotePath) -> Leftover:
    try:
        marker = read_marker(folder)
        present = {} if marker is None else {name: (folder / name) for name in marker.files}
        nbytes = sum(path.identity().size for path in present.values() if path.is_file())
        removed = sweep(folder)
    except OutputError as error:
        return Leftover(folder, 0, False, str(error), in_use=True)
    except OSError as error:
        return Leftover(folder, 0, False, f"it cannot be removed: {error.strerror}")
    return Leftover(folder, nbytes if removed else 0, True)


@contextlib.contextmanager
def beating(folder: RemotePath, marker: Marker) -> Iterator[None]:
    """Keeps a marker alive while the block runs.

    Args:
        folder: The folder of the output.
        marker: The marker, which has been written.
    """
    stop = threading.Event()

    def beat() -> None:
        count = 0
        while not stop.wait(BEAT_SECONDS):
            count += 1
            with contextlib.suppress(OSError):  # the conversion's own requests report it
                put(folder / MARKER, dataclasses.replace(marker, beat=count).to_bytes())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
