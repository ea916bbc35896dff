"""The one place that tells an output on a file system from one in an object store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import unquote

from jaxconv.distributed import ALONE, Processes
from jaxconv.errors import OutputError, UsageError
from jaxconv.storage import check_address, is_address, upload_command
from jaxconv.writer.check import check_directory
from jaxconv.writer.destination import Destination
from jaxconv.writer.options import WriteOptions
from jaxconv.writer.publish import staged_directory
from jaxconv.writer.remote_publish import check_remote, staged_remote
from jaxconv.writer.target import OutputExists


def output_place(output: str | Path) -> Path | str:
    """The path or the address that `output`, as the user named it, stands for.

    Raises:
        UsageError: It is an empty string, or an address with a secret in it.
    """
    if not str(output).strip():
        raise UsageError("OUTPUT is empty. Name a new directory.")
    if is_address(output):
        return check_address(str(output))
    local = str(output).startswith("file://")
    return (Path(unquote(str(output).removeprefix("file://"))) if local else Path(output)).expanduser()


def check_output(output: Path | str, sources: Sequence[Path | str], options: WriteOptions) -> None:
    """Refuses an output that exists, cannot be written, or overlaps a source.

    Args:
        output: The output, as `output_place` gives it.
        sources: The directories and addresses of the source.
        options: Whether a former output may be replaced.

    Raises:
        OutputError: The output cannot be used.
        UsageError: The output is no name of a file, or a store's library is not installed.
    """
    if isinstance(output, str):
        check_remote(output, [source for source in sources if isinstance(source, str)], options)
    else:
        check_directory(output, tuple(source for source in sources if isinstance(source, Path)), options)


def check_or_note(output: Path | str, sources: Sequence[Path | str], options: WriteOptions, *, dry_run: bool) -> str | None:
    """Like `check_output`; of a dry run, which writes nothing, an output that exists is a note and no error.

    Args:
        output: The output.
        sources: Where the source lies.
        options: How it is written.
        dry_run: Whether nothing will be written.

    Returns:
        What a conversion would say of the output that exists.

    Raises:
        OutputError: The output cannot be used.
    """
    try:
        check_output(output, sources, options)
    except OutputExists as error:
        if not dry_run:
            raise
        return str(error)
    return None


def check_provable(output: Path | str) -> None:
    """Refuses an `output` whose files other libraries cannot read before it is published.

    Raises:
        OutputError: It is an address.
    """
    if isinstance(output, str):
        directory = output.rpartition("/")[2]
        raise OutputError(
            f"a proof reads the output from a disk before it is published, and {output} is not on one. Convert to the "
            f"directory {directory}, then copy it: {upload_command(output)}"
        )


def staged_output(
    output: Path | str, options: WriteOptions, names: Sequence[str], processes: Processes = ALONE
) -> AbstractContextManager[Destination]:
    """What becomes `output` if the block ends well, and is removed if it does not.

    Args:
        output: The output, as `output_place` gives it.
        options: Whether a former output is replaced.
        names: The files that will be written.
        processes: The processes of the conversion.

    Raises (when the block begins or ends):
        OutputError: The output cannot be written, or something has appeared there.
        SourceError: A file of the source could not be read within the block.
    """
    if isinstance(output, str):
        return staged_remote(output, options, names, processes)
    return staged_directory(output, options, processes)
