"""`jaxconv clean DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from jaxconv.cli._output import human_bytes, print_json

if TYPE_CHECKING:
    from jaxconv.writer.sweep import Leftover


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("clean")(clean)


def clean(
    directory: str = typer.Argument(
        ..., metavar="DIR", help="An output, or a directory of outputs; or an address of either."
    ),
    json: bool = typer.Option(False, "--json", help="Print one JSON document to stdout."),
) -> None:
    """Remove what killed conversions left in DIR, unless a live process uses it."""
    leftovers = _sweep(directory)
    removed = [leftover for leftover in leftovers if leftover.removed]
    kept = [leftover for leftover in leftovers if not leftover.removed]
    if json:
        print_json(
            {
                "removed": [{"path": str(leftover.path), "bytes": leftover.nbytes} for leftover in removed],
                "kept": [{"path": str(leftover.path), "reason": leftover.reason} for leftover in kept],
            }
        )
        return
    for leftover in removed:
        print(f"removed  {leftover.path} ({human_bytes(leftover.nbytes)})")
    for leftover in kept:
        print(f"kept     {leftover.path}: {leftover.reason}")
    if not leftovers:
        print("nothing to remove")


def _sweep(name: str) -> list[Leftover]:
    """What lay in a directory or in a folder of a store."""
    from jaxconv.errors import OutputError
    from jaxconv.storage import is_address, remote_path
    from jaxconv.writer.marker import sweep_folder
    from jaxconv.writer.sweep import sweep_directory

    if is_address(name):
        return sweep_folder(remote_path(name))
    directory = Path(name).expanduser().resolve()
    if not directory.is_dir() and not directory.parent.is_dir():
        raise OutputError(f"{directory} does not exist. Name an output, or the directory that it was to be created in.")
    return sweep_directory(directory)
