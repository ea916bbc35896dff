"""`jaxconv clean DIR`."""

from __future__ import annotations

from pathlib import Path

import typer

from jaxconv.cli._output import human_bytes, print_json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("clean")(clean)


def clean(
    directory: Path = typer.Argument(..., metavar="DIR", help="An output, or a directory of outputs."),
    json: bool = typer.Option(False, "--json", help="Print one JSON document to stdout."),
) -> None:
    """Remove what killed conversions left in DIR, unless a live process uses it."""
    from jaxconv.errors import OutputError
    from jaxconv.writer.sweep import sweep_directory

    directory = directory.expanduser().resolve()
    if not directory.is_dir() and not directory.parent.is_dir():
        raise OutputError(f"{directory} does not exist. Name an output, or the directory that it was to be created in.")
    leftovers = sweep_directory(directory)
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
