"""Caches the most recently read array, because consecutive requests usually hit the same one."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import ClassVar

from jaxconv.checkpoint import Array


class LastRead:
    """An array that is cached after its first read, until another one is read or the checkpoint is released."""

    _last: ClassVar[Callable[[], LastRead | None]] = staticmethod(lambda: None)
    _lock = threading.Lock()

    def __init__(self, read: Callable[[], Array]) -> None:
        self._read = read
        self._array: Array | None = None

    def read(self) -> Array:
        """The whole array. The cache is emptied before another array is read, so at most one is in memory."""
        with LastRead._lock:
            if self._array is None:
                previous = LastRead._last()
                if previous is not None:
                    previous._array = None
                LastRead._last = weakref.ref(self)
                self._array = self._read()
            return self._array

    @property
    def held(self) -> bool:
        """Whether the array is in the cache."""
        return self._array is not None
