"""The processes of a JAX program. They agree through JAX's collectives, in which all of them take part in the same order.

`Collective` is for arrays that are spread over the processes: its messages go between the gathers of the arrays, so one that
has failed goes on until the others can notice. `Hosts` is for a source that every process can read: a thread exchanges
messages in rounds, so that a failure is known within a second, whatever the other threads are doing.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

from jaxconv.checkpoint import Array, TensorRef
from jaxconv.distributed import Processes, failure, supervisor
from jaxconv.errors import ProcessError
from jaxconv.json_files import JsonDict, JsonObject

BLOCK = 1 << 12  # bytes; messages are padded to multiples of it, so that few lengths have to be compiled
ROUND_SECONDS = 1.0  # between two rounds in which nobody says anything
GRACE_SECONDS = 15  # beyond the heartbeat timeout, within which JAX ends the processes that are left


class Collective(Processes):
    """`Processes` of `jax.distributed` that hold arrays together, and all make the same call."""

    def __init__(self) -> None:
        import jax

        self.rank, self.size = jax.process_index(), jax.process_count()
        self._failed = False  # a failure that all processes know of

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.stop(error)
        else:
            self.exchange(None)

    def exchange(self, value: Any) -> list[Any]:
        """The `value` of every process, by rank."""
        answers = _converse({"value": value})
        for answer in answers:
            if "failed" in answer:
                self._failed = True
                raise ProcessError(answer["failed"])
        return [answer["value"] for answer in answers]

    @contextlib.contextmanager
    def reading(self, tensors: Sequence[TensorRef]) -> Iterator[Sequence[TensorRef]]:
        """The tensors; all processes read each of them, since reading is a collective.

        What the block has not read, because of an error or because another process writes the file, is read at its end.
        """
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
        """Tells the others at their next exchange that `error` stopped this process."""
        if not self._failed:
            self._failed = True
            with contextlib.suppress(ProcessError):
                _converse({"failed": failure(self.rank, error)})


class Hosts(Collective):
    """`Processes` of `jax.distributed` that each can read the source.

    A round gathers what each process has to say, if anything. An exchange is done once all have spoken in one round. The
    rounds end when all say that they end, or that they failed: then no process writes any more.
    """

    def __init__(self, heartbeat_timeout: float) -> None:
        super().__init__()
        self._patience = heartbeat_timeout + GRACE_SECONDS
        self._changed = threading.Condition()
        self._message: JsonDict = {}  # what this process has to say
        self._answers: list[JsonDict] = []
        self._error: ProcessError | None = None
        self._thread = threading.Thread(target=self._rounds, daemon=True)
        self._thread.start()
        supervisor.report({"hosts": self.exchange(socket.gethostname())})

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._say({"value": None, "end": True})
                self._thread.join()
        except BaseException as failed:
            self.stop(failed)
            raise
        if error is not None:
            self.stop(error)

    def exchange(self, value: Any) -> list[Any]:
        """The `value` of every process, by rank."""
        return [answer["value"] for answer in self._say({"value": value})]

    def check(self) -> None:
        """Raises `ProcessError` for a failure that a round has brought."""
        if self._error is not None:
            raise self._error

    @contextlib.contextmanager
    def reading(self, tensors: Sequence[TensorRef]) -> Iterator[Sequence[TensorRef]]:
        """The tensors as they are."""
        yield tensors

    def stop(self, error: BaseException) -> None:
        """Tells the others of `error`, and waits until they have stopped too; of one that is lost, until JAX notices."""
        with self._changed:
            self._message = {"failed": failure(self.rank, error)}
            self._changed.notify_all()
        self._thread.join(self._patience)

    def _say(self, message: JsonDict) -> list[JsonDict]:
        with self._changed:
            self._message, self._answers = message, []
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._answers or self._error)
        self.check()
        return self._answers

    def _rounds(self) -> None:
        ended = False
        while not ended:
            with self._changed:
                self._changed.wait_for(lambda: self._message, ROUND_SECONDS)
                message = self._message
            try:
                answers = _converse(message)
            except Exception as error:
                time.sleep(self._patience)  # JAX finds out which process is lost, and ends this one
                answers, ended = [{"failed": str(error)}], True
            with self._changed:
                failed = [answer["failed"] for answer in answers if "failed" in answer]
                if failed:
                    self._error = self._error or ProcessError(failed[0])
                elif all(answers):
                    self._answers = answers
                    self._message = {} if self._message is message else self._message
                ended = ended or len(failed) == self.size or all("end" in answer for answer in answers)
                self._changed.notify_all()


def _converse(message: JsonObject) -> list[JsonDict]:
    """The `message` of every process, by rank. Raises `ProcessError` if a process is gone."""
    import numpy as np

    raw = np.frombuffer(json.dumps(message).encode(), np.uint8)
    blocks = int(gather(np.int32(-(-raw.size // BLOCK))).max())
    rows = gather(np.pad(raw, (0, blocks * BLOCK - raw.size), constant_values=ord(" ")))
    return [json.loads(row.tobytes()) for row in rows]


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
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # ValueError: a lost connection on the CPU (jaxlib 0.10)
        raise ProcessError(
            f"the processes cannot exchange data: {str(error).strip().splitlines()[0]}. Nothing was published. One of "
            "them died or made another call: look at the logs."
        ) from error
