"""`jaxconv push OUTPUT REPO_ID`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from jaxconv.cli import _options as option
from jaxconv.cli._output import print_json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("push")(push)


def push(
    output: Annotated[str, typer.Argument(help="Directory that convert wrote.")],
    repo_id: Annotated[str, typer.Argument(help="Repository on the hub, owner/name; created if it does not exist.")],
    source: Annotated[
        Optional[str], typer.Option(help="What OUTPUT was converted from; recorded in it for a hub id.")
    ] = None,
    base: option.Base = None,
    adapter: option.Adapter = None,
    public: Annotated[bool, typer.Option("--public", help="Create a public repository, or write to one.")] = False,
    revision: Annotated[Optional[str], typer.Option(help="Branch to write to; created if it does not exist.")] = None,
    commit_message: Annotated[Optional[str], typer.Option(help="Message of the commit.")] = None,
    token: option.HubToken = None,
    json: option.Json = False,
) -> None:
    """Prove the structure of an output, then upload it to the hub. A new repository is private without --public."""
    import dataclasses
    import sys

    from huggingface_hub.utils import disable_progress_bars

    import jaxconv

    if json or sys.stderr is None or not sys.stderr.isatty():
        disable_progress_bars()
    pushed = jaxconv.push(
        output, repo_id, source=source, base=base, adapter=adapter, public=public, revision=revision,
        commit_message=commit_message, token=token,
    )  # fmt: skip
    if json:
        print_json(dataclasses.asdict(pushed))
    else:
        print(f"{pushed.tensors} tensors are the source's\npushed to {pushed.url} (commit {pushed.commit})")
