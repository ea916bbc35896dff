"""Writes this process's share of the planned files, and collects what all processes wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jaxconv.distributed import Processes
from jaxconv.errors import OutputError
from jaxconv.storage import File, read_blocks
from jaxconv.writer.destination import Destination
from jaxconv.writer.options import WriteOptions
from jaxconv.writer.shards import OutputFile, assign
from jaxconv.writer.stream import write_file

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written.

    Attributes:
        how: "link", "reflink", "copy" or "write".
        size: Its size in bytes.
        sha256: Its digest in hex, if it was asked for.
    """

    how: str
    size: int
    sha256: str | None


def write_share(
    files: Sequence[OutputFile], stage: Destination, processes: Processes, *, options: WriteOptions, progress: Progress | None
) -> dict[str, Written]:
    """Writes the files that fall to this process.

    Args:
        files: All planned files.
        stage: What takes the files.
        processes: The processes of the conversion.
        options: Copy mode, and whether digests are computed.
        progress: Called by the first process only, with the bytes of its own share.

    Returns:
        File name -> how it was written, of all processes, in the order of `files`.

    Raises:
        OutputError: A file cannot be written, or this process does not see one of another process in full.
        SourceError: The source cannot be read, or has changed.
    """
    owners = assign(files, processes.size)
    total = sum(file.nbytes for file, owner in zip(files, owners, strict=True) if owner == processes.rank)
    count = 0

    def advance(nbytes: int) -> None:
        nonlocal count
        count += nbytes
        processes.check()
        if progress is not None and processes.rank == 0:
            progress(count, total)

    share: dict[str, tuple[str, int, str | None]] = {}
    for file, owner in zip(files, owners, strict=True):
        with processes.reading(file.tensors) as tensors:
            if owner == processes.rank:
                processes.check()
                how = write_file(replace(file, tensors=tuple(tensors)), stage, options.copy_mode, advance)
                nbytes = stage.size(file.name) or 0
                share[file.name] = (how, nbytes, _sha256(stage.file(file.name), nbytes) if options.hash else None)
    written = {name: Written(*values) for part in processes.exchange(share) for name, values in part.items()}
    _check_visible(written, stage)
    return {file.name: written[file.name] for file in files}


def _check_visible(written: dict[str, Written], stage: Destination) -> None:
    """Raises `OutputError` if a file of another process is not here, or not in full."""
    for name, file in written.items():
        size = stage.size(name)
        if size != file.size:
            here = "does not exist here" if size is None else f"has {size} bytes here"
            raise OutputError(
                f"{stage.file(name)} {here}, and {file.size} bytes on the host that wrote it. Nothing was published. "
                "Name an output that all processes share."
            )


def _sha256(file: File, nbytes: int) -> str:
    digest = hashlib.sha256()
    for block in read_blocks(file, 0, nbytes):
        digest.update(block)
    return digest.hexdigest()
