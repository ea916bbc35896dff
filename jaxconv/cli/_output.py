"""What commands print: one JSON document on stdout, or text for people; and how they read JSON flags."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator

from jaxconv.errors import UsageError
from jaxconv.json_files import Unchecked


def to_json(document: object) -> str:
    """The document as indented JSON."""
    return json.dumps(document, indent=2, ensure_ascii=False)


def print_json(document: object) -> None:
    """Writes one JSON document to stdout."""
    print(to_json(document))


def print_after_publication(text: str) -> None:
    """Prints what was done. The output is published: a stdout that cannot be written is a note on stderr, not a failure."""
    try:
        print(text, flush=True)
    except OSError as error:
        discard_stdout()
        if not isinstance(error, BrokenPipeError):
            with contextlib.suppress(OSError):
                reason = error.strerror or error
                print(f"jaxconv: done; the summary cannot be written to stdout: {reason}.", file=sys.stderr, flush=True)


def print_warnings(warnings: Iterable[str]) -> None:
    """Prints what the caller should know to stderr."""
    with contextlib.suppress(OSError):
        for warning in warnings:
            print(f"jaxconv: warning: {warning}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def warnings_printed_here() -> Iterator[None]:
    """Keeps the log of the API quiet in the block: the command prints the warnings itself."""
    log = logging.getLogger("jaxconv")
    former, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = former


def words_of(value: object, key: str = "") -> str:
    """A JSON value as a person reads it: no quotes, brackets or names of Python's constants.

    Args:
        value: The value.
        key: The key that it has in its document.
    """
    if value is None or value == [] or value == ():
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        if value.keys() == {"text", "id"}:
            return f"{value['text']} ({value['id']})"
        return ", ".join(f"{name} {words_of(entry, name)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        separator = " x " if key == "shape" else ", " if all(isinstance(entry, int | dict) for entry in value) else "; "
        return separator.join(words_of(entry) for entry in value)
    return str(value)


def stdout_fails() -> bool:
    """Whether stdout cannot be written to. Asked after an error that may have come from it; writes a newline to find out."""
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"\n")
    except (OSError, ValueError, AttributeError):
        return True
    return False


def discard_stdout() -> None:
    """Throws away what was printed and could not be written, which Python would try again at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


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
    if quiet or sys.stderr is None or not sys.stderr.isatty():
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
