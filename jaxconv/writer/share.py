"""Which of the planned files this process writes, and what all processes wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxconv.distributed import Processes
from jaxconv.errors import OutputError
from jaxconv.writer.options import WriteOptions
from jaxconv.writer.shards import OutputFile, assign
from jaxconv.writer.stream import write_file

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a file: link, reflink, copy or write; its size, and its sha256 where it was asked for."""

    how: str
    size: int
    sha256: str | None


def write_share(
    files: Sequence[OutputFile], stage: Path, processes: Processes, *, options: WriteOptions, progress: Progress | None
) -> dict[str, Written]:
    """Writes the files that fall to this process into `stage`, and returns what became of all files, in their order.

    Progress, of the first process alone, is that of its own share. Raises `OutputError` for files of other
    processes that this one does not see in full.
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

    own: dict[str, tuple[str, int, str | None]] = {}
    for file, owner in zip(files, owners, strict=True):
        with processes.reading(file.tensors) as tensors:
            if owner == processes.rank:
                processes.check()
                how = write_file(replace(file, tensors=tuple(tensors)), stage, options.copy_mode, advance)
                path = stage / file.name
                own[file.name] = (how, path.stat().st_size, _sha256(path) if options.hash else None)
    reports = {name: Written(*said) for share in processes.exchange(own) for name, said in share.items()}
    for name, written in reports.items():
        found = (stage / name).stat().st_size if (stage / name).is_file() else None
        if found != written.size:
            raise OutputError(
                f"{stage / name} has {found} bytes here and {written.size} where it was written; expected one file system "
                "that all processes see. Nothing was published; name an output on a shared one."
            )
    return {file.name: reports[file.name] for file in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
