"""Writes the command line's reference into cli.md while MkDocs builds the site."""

from __future__ import annotations

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from jaxconv.cli import build_app

MARK = "<!-- the reference of all commands -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Puts the options of every command in the place of the mark.

    Args:
        markdown: The text of a page.
    """
    if MARK not in markdown:
        return markdown
    command = get_command(build_app())
    reference = get_docs_for_click(obj=command, ctx=typer.Context(command, **command.context_settings), name="jaxconv")
    return markdown.replace(MARK, reference.split("\n", 1)[1])
