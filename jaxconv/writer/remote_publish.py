"""Publishes an output in an object store, where nothing can be renamed: `config.json`, which makes a model of it, comes last.

A marker names the files while they are written, so that a later run can remove what a killed one left. With `overwrite` the
former output stops being one when the new one begins: its `config.json` is removed first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from jaxconv.distributed import ALONE, Processes
from jaxconv.errors import OutputError
from jaxconv.storage import RemotePath, remote_path, storage_errors
from jaxconv.writer.io_errors import output_error, writing_output
from jaxconv.writer.marker import MARKER, Marker, beating, read_marker, remove, sweep
from jaxconv.writer.options import WriteOptions
from jaxconv.writer.remote import CONFIG, RemoteFolder, put
from jaxconv.writer.target import PROVENANCE, OutputExists


def check_remote(address: str, sources: Sequence[str], options: WriteOptions) -> None:
    """Refuses an output in a store that exists, cannot be listed, or overlaps a source.

    Args:
        address: The address of the output.
        sources: The addresses of the source.
        options: Whether a former output may be replaced.

    Raises:
        OutputError: The output cannot be used.
        UsageError: The address is not one that can be opened.
    """
    folder = remote_path(address)
    if folder.address.startswith("hf://"):
        directory = folder.name
        raise OutputError(
            f"output {folder}: a conversion is not streamed to the hub, where every file is a commit. Convert to a directory "
            f"and push that: jaxconv convert SOURCE {directory} && jaxconv push {directory} {folder.address[5:]}"
        )
    for source in sources:
        one, other = f"{folder}/", f"{source.rstrip('/')}/"
        if one.startswith(other) or other.startswith(one):
            raise OutputError(f"output {folder} and the source {source} lie within each other. Name a folder apart from it.")
    try:
        entries = folder.entries()
    except OSError as error:
        raise output_error(f"output {folder} cannot be listed", error) from error
    if not entries or (MARKER in entries and CONFIG not in entries):
        return
    if not options.overwrite:
        raise OutputExists(f"output {folder} exists and is not empty. Pass --overwrite or name another one.")
    if PROVENANCE not in entries:
        raise OutputError(
            f"output {folder} has no {PROVENANCE}, so it was not made by jaxconv and --overwrite leaves it alone. "
            "Remove it yourself or name another one."
        )


@contextlib.contextmanager
def staged_remote(
    address: str, options: WriteOptions, names: Sequence[str], processes: Processes = ALONE
) -> Iterator[RemoteFolder]:
    """A folder that becomes an output if the block ends well, and is emptied if it does not.

    The first process writes and removes the marker and publishes; the others write their files.

    Args:
        address: The address of the output.
        options: Whether a former output is replaced.
        names: The files that will be written, by all processes.
        processes: The processes of the conversion.

    Yields:
        What takes the files.

    Raises:
        OutputError: The output cannot be written, or another conversion is at work there.
    """
    folder = remote_path(address)
    stage = RemoteFolder(folder)
    if processes.rank != 0:
        processes.exchange(None)
        try:
            yield stage
            processes.check()
        except BaseException as error:
            processes.stop(error)
            raise
        return
    marker: Marker | None = None
    try:
        with writing_output(folder.address):
            former = _former(folder, options)
            marker = _begin(folder, [*names, *former])
            remove(folder, sorted(former, key=lambda name: name != CONFIG))
            with beating(folder, marker):
                processes.exchange(None)
                yield stage
                processes.check()
                _check_owned(folder, marker)
                put(folder / CONFIG, stage.held_back[CONFIG])
    except BaseException as error:
        processes.stop(error)
        if marker is not None:
            _abandon(folder, marker, error)
        if not isinstance(error, Exception):
            error.add_note("Nothing was published.")
        raise
    with contextlib.suppress(OSError):  # the output is complete, and the next run removes the marker
        remove(folder, [MARKER])


def _former(folder: RemotePath, options: WriteOptions) -> list[str]:
    """The files of a former output, once what a killed conversion left is removed."""
    sweep(folder)
    with storage_errors(folder.address):
        folder.store.invalidate_cache()
        keys = [str(key).strip("/") for key in folder.store.find(folder.key)]
    prefix = f"{folder.key.strip('/')}/"
    former = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    if former and not options.overwrite:
        raise OutputError(f"output {folder} appeared while the conversion ran. Nothing was published. Name another one.")
    return former


def _begin(folder: RemotePath, names: Sequence[str]) -> Marker:
    """Writes the marker."""
    marker = Marker.of_this_process(sorted(set(names)))
    try:
        put(folder / MARKER, marker.to_bytes(), new=True)
    except OSError as error:
        if not isinstance(error.__cause__, FileExistsError):
            raise
        raise OutputError(
            f"another conversion into {folder} has just begun. Wait until it is done, or name another output."
        ) from error
    return marker


def _check_owned(folder: RemotePath, marker: Marker) -> None:
    """Raises `OutputError` if another conversion took this one for dead."""
    current = read_marker(folder)
    if current is None or current.run != marker.run:
        raise OutputError(
            f"another conversion took {folder} while this one stood still. This one published nothing. Run it again."
        )


def _abandon(folder: RemotePath, marker: Marker, error: BaseException) -> None:
    """Deletes what was uploaded, the marker last. If the store does not answer, the error says what is left."""
    try:
        current = read_marker(folder)
        if current is not None and current.run == marker.run:
            remove(folder, [CONFIG, *marker.files])
            remove(folder, [MARKER])
    except OSError as failure:
        error.add_note(
            f"What was uploaded to {folder} could not be removed ({failure.strerror}); it is no model. The next run removes "
            f"it, and so does: jaxconv clean {folder}"
        )
