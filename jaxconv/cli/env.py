"""`jaxconv env`."""

from __future__ import annotations

import typer

from jaxconv.cli import _options as option
from jaxconv.cli._output import print_json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("env")(env)


def env(json: option.Json = False) -> None:
    """List versions and devices, for a report of a fault."""
    from jaxconv.environment import environment

    document = environment()
    if json:
        print_json(document)
        return
    for name in ("jaxconv", "python", "platform", "executable", "package"):
        print(f"{name:22} {document[name]}")
    for name, version in document["libraries"].items():
        print(f"{name:22} {version or 'not installed'}")
    for name, devices in document["devices"].items():
        print(f"{name + ' devices':22} {'; '.join(devices)}")
    for name, value in document["variables"].items():
        print(f"{name:22} {value}")
