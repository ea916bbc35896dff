"""The processes of a JAX program. They agree through JAX's collectives, in which all of them take part in the same order."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxconv.checkpoint import Array, TensorRef
from jaxconv.distributed import Processes, supervisor
from jaxconv.errors import ProcessError
from jaxconv.json_files import JsonDict, JsonObject

BLOCK = 1 << 12  # bytes; messages are padded to multiples of it, so that few lengths have to be compiled
FAILED = "failed"  # a file of the stage with the reason, for those that write; the others get it by their next exchange


class Collective(Processes):
    """`Processes` of `jax.distributed`, all of which make the same call.

    Args:
        spread: Whether the tensors are spread over the processes, so that all have to take part in reading each.
        patience: Seconds within which JAX ends this process if another one is lost.
    """

    def __init__(self, spread: bool, patience: float = 0) -> None:
        import jax

        self.rank, self.size = jax.process_index(), jax.process_count()
        self._spread, self._patience = spread, patience
        self._speaker = ThreadPoolExecutor(1)  # signals interrupt this thread while that one waits for the others
        self._failed = self._stopped = False  # whether all know of a failure; whether this process has told of one
        self._mark: Path | None = None
        supervisor.report({"hosts": self.exchange(socket.gethostname())})

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.stop(error)
        else:
            self.exchange(None)

    def exchange(self, value: Any) -> list[Any]:
        """The `value` of every process, by rank."""
        answers = self._speaker.submit(self._converse, {"value": value}).result()
        for answer in answers:
            if "failed" in answer:
                raise ProcessError(answer["failed"])
        return [answer["value"] for answer in answers]

    def watch(self, stage: Path) -> None:
        """Notes that all processes see `stage`, where one that fails says so to those that write."""
        self._mark = None if self._spread else stage / FAILED

    def check(self) -> None:
        """Raises `ProcessError` for a failure that was left in the stage."""
        if self._mark is not None and self._mark.exists():
            raise ProcessError(self._mark.read_text("utf-8"))

    @contextlib.contextmanager
    def reading(self, tensors: Sequence[TensorRef]) -> Iterator[Sequence[TensorRef]]:
        """The tensors. Of those that are spread all processes read each.

        What the block has not read, because of an error or because another process writes the file, is read at its end.
        """
        if not self._spread:
            yield tensors
            return
        unread = deque(tensors)

        def read(ref: TensorRef) -> Array:
            unread.popleft()
            return ref.read()

        try:
            yield [replace(ref, read=partial(read, ref)) for ref in tensors]
        finally:
            while unread:
                unread.popleft().read()
        self.exchange(None)

    def stop(self, error: BaseException) -> None:
        """Tells the others of `error`, and waits until all are at an exchange or have stopped, and write no more."""
        if self._failed or self._stopped:
            return
        self._stopped, reason = True, _failure(self.rank, error)
        if self._mark is not None:
            with contextlib.suppress(OSError):
                part = self._mark.with_name(f"{FAILED}-{self.rank}")
                part.write_text(reason, "utf-8")
                part.replace(self._mark)
        with contextlib.suppress(ProcessError, TimeoutError):
            self._speaker.submit(self._converse, {"failed": reason}).result(self._patience or None)

    def _converse(self, message: JsonObject) -> list[JsonDict]:
        """The messages of all processes; none once all know of a failure, as by an exchange that was interrupted here."""
        import numpy as np

        if self._failed:
            return []
        raw = np.frombuffer(json.dumps(message).encode(), np.uint8)
        try:
            blocks = int(gather(np.int32(-(-raw.size // BLOCK))).max())
            rows = gather(np.pad(raw, (0, blocks * BLOCK - raw.size), constant_values=ord(" ")))
        except ProcessError:
            time.sleep(self._patience)  # JAX finds out which process is lost, and ends this one
            raise
        answers = [json.loads(row.tobytes()) for row in rows]
        self._failed = any("failed" in answer for answer in answers)
        return answers


def gather(array: Any) -> Array:
    """Gathers an array on every process.

    Args:
        array: A `jax.Array` that is spread over the processes, or an array that each process has a value of.

    Returns:
        The whole array; or the values of all processes, stacked on a new first axis by rank.

    Raises:
        ProcessError: A process is gone.
    """
    import jax
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    try:
        return np.asarray(process_allgather(array, tiled=isinstance(array, jax.Array)))
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # the latter on the CPU (jaxlib 0.10)
        raise ProcessError(
            f"the processes cannot exchange data: {str(error).strip().splitlines()[0]}. Nothing was published. One of "
            "them died or made another call: look at the logs."
        ) from error


def _failure(rank: int, error: BaseException) -> str:
    """The message to the other processes. A `ProcessError` came from another process, and is passed on as it is."""
    if isinstance(error, ProcessError):
        return str(error)
    reason = str(error) or type(error).__name__ if isinstance(error, Exception) else "it was interrupted"
    return f"process {rank} on {socket.gethostname()} failed: {reason}"
