"""What commands print: one JSON document on stdout, or text for people; and how they read JSON flags."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator

from jaxconv.errors import UsageError
from jaxconv.json_files import Unchecked


def print_json(document: object) -> None:
    """Writes one JSON document to stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def human_bytes(count: float) -> str:
    """A byte count in decimal units, as disks and hubs print it: 8.05 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def json_list(flag: str, text: str | None) -> list[Unchecked] | None:
    """The JSON list of a flag, or None. Raises `UsageError` for anything else."""
    if text is None:
        return None
    example = 'expected a list like \'["no","yes"]\'.'
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text!r} is not JSON ({error}); {example}") from None
    if not isinstance(value, list):
        raise UsageError(f"{flag} {text!r} is a JSON {type(value).__name__}; {example}")
    return value


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr with bytes, rate and time left; None unless stderr is a terminal.

    Yields:
        A function of the bytes done and the bytes in all.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = None

        def show(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("", total=total)
            bar.update(task, completed=done, total=total)

        yield show
