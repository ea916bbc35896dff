"""Ctrl-C, SIGTERM and SIGHUP as one exception, so that whatever they interrupt cleans up behind itself."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Interrupted(BaseException):
    """A signal asked the process to end. Not a KeyboardInterrupt, which typer answers without a message."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raises `Interrupted` in the block when a signal arrives.

    A second SIGTERM or SIGHUP is ignored, so that the clean-up of the first can finish; a second Ctrl-C interrupts it too.
    Signals that were ignored before stay so (`nohup`). Does nothing outside the main thread, which alone may set handlers.
    """
    former = {}
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted and number != signal.SIGINT:
            return
        interrupted = True
        raise Interrupted(number)

    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                former[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
