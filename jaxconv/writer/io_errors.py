"""Turns an OSError into an error that says which file could not be used, of which side, and what to do about it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxconv.errors import OutputError, SourceError
from jaxconv.file_errors import REMOTE
from jaxconv.storage import File, is_address

SOURCE_REMEDIES = {
    errno.ENOENT: "It existed when the conversion began: put it back",
    errno.EACCES: "Make it readable",
    errno.EPERM: "Make it readable",
    errno.EIO: "Check the disk, or download the file again",
    errno.ESTALE: "It was removed on the file server: put it back",
}
OUTPUT_REMEDIES = {
    errno.ENOSPC: "Free some space, or name an output on another file system",
    errno.EDQUOT: "Free some of your quota, or name an output on another file system",
    errno.EFBIG: "Raise the limit on file sizes (ulimit -f), or name an output on another file system",
    errno.EROFS: "Name an output on a file system that can be written to",
    errno.EACCES: "Make the directory writable, or name another one",
    errno.EPERM: "Make the directory writable, or name another one",
    errno.EIO: "Check the disk, or name an output on another one",
    errno.ENOENT: "Something removed it during the conversion: find out what",
}


@contextlib.contextmanager
def reading_source(name: File | str) -> Iterator[None]:
    """Turns an OSError of the block into an error that names what was read.

    Args:
        name: The file or tensor of the source.

    Raises:
        SourceError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise SourceError(
            f"reading {name} of the source failed: {error.strerror or error}. Nothing was published. "
            f"{_remedy(error, SOURCE_REMEDIES, 'Make it readable')}, then run the same command again."
        ) from error


@contextlib.contextmanager
def writing_output(name: Path | str) -> Iterator[None]:
    """Turns an OSError of the block into an error that names what was written.

    Args:
        name: The file of the output.

    Raises:
        OutputError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise output_error(f"writing {name} of the output failed", error) from error


def output_error(what: str, error: OSError) -> OutputError:
    """The error for a failure on the side of the output, before anything was published.

    Args:
        what: What failed, as the start of a sentence.
        error: The reason.
    """
    remedy = _remedy(error, OUTPUT_REMEDIES, "Name another output")
    return OutputError(
        f"{what}: {error.strerror or error}. Nothing was published. {remedy}, then run the same command again."
    )


def _remedy(error: OSError, remedies: Mapping[int, str], otherwise: str) -> str:
    """What to do about an error; one of an object store names the address."""
    return REMOTE.rstrip(".") if is_address(str(error.filename)) else remedies.get(error.errno or 0, otherwise)
