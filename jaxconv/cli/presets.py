"""`jaxconv presets [NAME]`."""

from __future__ import annotations

import dataclasses
from typing import Optional

import typer

from jaxconv.cli._output import print_json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("presets")(show)


def show(
    name: Optional[str] = typer.Argument(None, help="One preset in full."),
    json: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """The table of known rerankers, or one in full."""
    from jaxconv.presets import get, presets

    if name is not None:
        full = dataclasses.asdict(get(name))
        if json:
            print_json(full)
        else:
            for key, value in full.items():
                print(f"{key:14} {value}")
        return
    rows = presets()
    if json:
        print_json([dataclasses.asdict(row) for row in rows])
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("preset", "tokens", "method")
    table.add_column("hub ids, or why it cannot be converted", overflow="fold")
    for row in rows:
        tokens = ", ".join(row.tokens) or ", ".join(map(str, row.token_ids)) or "-"
        hub_ids_or_refusal = Text(row.refusal, "yellow") if row.refusal else Text("\n".join(row.hub_ids))
        table.add_row(Text(row.name), Text(tokens), Text("refused" if row.refusal else row.method), hub_ids_or_refusal)
    Console().print(table)
