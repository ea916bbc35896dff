"""The array that was read last, held: rows of the head, stacked layers and parts of one array are asked for in a row."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import ClassVar

from jaxconv.checkpoint import Array


class LastRead:
    """Reads an array once, and lets it go when another one is read or when its checkpoint is given up."""

    _last: ClassVar[Callable[[], LastRead | None]] = staticmethod(lambda: None)
    _lock = threading.Lock()

    def __init__(self, read: Callable[[], Array]) -> None:
        self._read = read
        self._array: Array | None = None

    def read(self) -> Array:
        """The whole array. At most one is held, and none beside the one that is being read."""
        with LastRead._lock:
            if self._array is None:
                former = LastRead._last()
                if former is not None:
                    former._array = None
                LastRead._last = weakref.ref(self)
                self._array = self._read()
            return self._array

    @property
    def held(self) -> bool:
        """Whether reading costs nothing now."""
        return self._array is not None
