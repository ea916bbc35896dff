"""Turns an OSError of a file that somebody else wrote into an error that names the file, the reason and what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from jaxconv.errors import SourceError
from jaxconv.storage import File, is_address

REMOTE = "Check the address, the credentials and the network."
REMEDIES = {
    errno.EIO: "Check the disk, or download it again.",
    errno.ENODEV: "Copy it to a file system whose files can be mapped into memory.",
    errno.ESTALE: "It was removed on the file server: put it back.",
    errno.ENOENT: "It was there a moment ago: put it back.",
}


def unreadable(path: File | str, error: OSError) -> SourceError:
    """The error for the file `path`, or the one in it that `error` names, which could not be read."""
    name = error.filename if isinstance(error.filename, str) else str(path)
    remedy = REMOTE if is_address(name) else REMEDIES.get(error.errno or 0, "Make it a readable file.")
    return SourceError(f"{name} cannot be read: {error.strerror or error}. {remedy}")


@contextlib.contextmanager
def reading(path: File | str) -> Iterator[None]:
    """Turns an OSError of the block, which reads the file `path`, into a `SourceError`."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error
