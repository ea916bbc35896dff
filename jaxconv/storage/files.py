"""Reads files, whether they lie in a file system or in an object store."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from jaxconv.storage.identity import FileIdentity
from jaxconv.storage.remote import RemotePath

File: TypeAlias = Path | RemotePath
BLOCK = 1 << 23  # bytes of a range request
AHEAD = 4  # blocks that are requested before they are needed


def identities_of(paths: Iterable[Path]) -> dict[File, FileIdentity]:
    """The identity of each of `paths` that is a file."""
    return {path: FileIdentity.of(path.stat()) for path in paths if path.is_file()}


def identity_of(file: File) -> FileIdentity:
    """The identity of `file` now. A local one is opened: on network file systems that fetches its current state."""
    if isinstance(file, RemotePath):
        return file.identity()
    with file.open("rb", buffering=0) as opened:
        return FileIdentity.of(os.fstat(opened.fileno()))


def read_blocks(file: File, offset: int, length: int, block: int = BLOCK) -> Iterator[bytes]:
    """Bytes of a file in blocks; of an object a few blocks are requested ahead.

    Args:
        file: The file.
        offset: The first byte.
        length: How many bytes; fewer come if the file ends.
        block: The size of a block.

    Raises:
        OSError: The file cannot be read.
    """
    ranges = ((start, min(block, offset + length - start)) for start in range(offset, offset + length, block))
    if isinstance(file, Path):
        with file.open("rb", buffering=0) as opened:
            for start, count in ranges:
                content = bytearray(count)
                yield bytes(memoryview(content)[: _fill(opened.fileno(), memoryview(content), start)])
        return
    if length <= block:
        yield from (file.read_range(start, count) for start, count in ranges)
        return
    with ThreadPoolExecutor(AHEAD) as pool:
        pending: deque[Future[bytes]] = deque()
        pending.extend(pool.submit(file.read_range, start, count) for start, count in islice(ranges, AHEAD))
        try:
            while pending:
                requested = pending.popleft().result()
                pending.extend(pool.submit(file.read_range, start, count) for start, count in islice(ranges, 1))
                yield requested
        finally:
            for future in pending:
                future.cancel()


def read_into(file: File, view: memoryview, offset: int) -> int:
    """Fills a view with the bytes of a file.

    Args:
        file: The file.
        view: Where the bytes go.
        offset: The first byte in the file.

    Returns:
        How many bytes there were.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb", buffering=0) as opened:
            return _fill(opened.fileno(), view, offset)
    done = 0
    for content in read_blocks(file, offset, len(view)):
        view[done : done + len(content)] = content
        done += len(content)
    return done


def _fill(handle: int, view: memoryview, offset: int) -> int:
    done = 0
    while done < len(view):
        count = os.preadv(handle, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done
