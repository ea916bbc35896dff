"""Notices a source that changes while it is converted."""

from __future__ import annotations

from collections.abc import Mapping

from jaxconv.errors import SourceError
from jaxconv.storage import File, FileIdentity, identity_of
from jaxconv.writer.io_errors import reading_source


def check_unchanged(files: Mapping[File, FileIdentity]) -> None:
    """Checks that files still are what they were when their headers were read.

    Args:
        files: Path -> the identity from the reading of its header.

    Raises:
        SourceError: A file was replaced, cut, extended or written to, or is gone.
    """
    for path, expected in files.items():
        with reading_source(path):
            current = identity_of(path)
        if current != expected:
            raise SourceError(
                f"{path} changed during the conversion: {_difference(expected, current)}. Nothing was published. "
                "Wait until nobody writes to the source, then run the same command again."
            )


def _difference(expected: FileIdentity, current: FileIdentity) -> str:
    if current.place != expected.place:
        return "it was replaced by another file"
    if current.size != expected.size:
        return f"it had {expected.size} bytes and now has {current.size}"
    return "it was written to"
