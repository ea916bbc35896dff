"""`jaxconv presets [NAME]`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from jaxconv.cli import _options as option
from jaxconv.cli import _words as words
from jaxconv.cli._output import print_json, words_of

if TYPE_CHECKING:
    from rich.table import Table

    from jaxconv.presets import Preset

EXAMPLES = option.examples("jaxconv presets", "jaxconv presets qwen3-reranker", "jaxconv presets | grep zerank")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("presets", epilog=EXAMPLES)(show)


def show(
    name: Annotated[Optional[str], typer.Argument(help="One preset in full.", autocompletion=words.complete_presets)] = None,
    json: option.Json = False,
) -> None:
    """The table of known rerankers, or one in full."""
    from jaxconv.presets import get, presets

    if name is not None:
        full = dataclasses.asdict(get(name))
        if json:
            print_json(full)
        else:
            _print_fields(full)
        return
    rows = presets()
    if json:
        print_json([dataclasses.asdict(row) for row in rows])
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(table(rows))
    else:
        for row in rows:
            print("\t".join((row.name, _answers(row), _method(row), row.refusal or " ".join(row.hub_ids))))


def table(rows: Sequence[Preset]) -> Table:
    """The presets for a terminal; on a narrow one long entries go on in the next line, and nothing is cut.

    Args:
        rows: The presets.
    """
    from rich.table import Table
    from rich.text import Text

    drawn = Table()
    for title in ("preset", "tokens", "method", "hub ids, or why it cannot be converted"):
        drawn.add_column(title, overflow="fold")
    for row in rows:
        last = Text(row.refusal, "yellow") if row.refusal else Text("\n".join(row.hub_ids))
        drawn.add_row(Text(row.name), Text(_answers(row)), Text(_method(row)), last)
    return drawn


def _answers(row: Preset) -> str:
    return words_of(row.tokens or row.token_ids).replace("; ", ", ")


def _method(row: Preset) -> str:
    return "refused" if row.refusal else row.method


def _print_fields(fields: dict[str, object]) -> None:
    """A line for each field, the template last and between bars."""
    template = fields.pop("template", None)
    for key, value in fields.items():
        print(f"{key:14} {words_of(value, key)}")
    if template:
        print("template, each line between bars:")
        print("\n".join(f"  |{line}|" for line in str(template).split("\n")))
