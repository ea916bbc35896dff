"""The processes of a JAX program whose arrays are spread over them. They agree through collectives, as JAX's own tools do.

All processes take part in every collective, in the same order. One that has failed goes on until the others can notice.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

from jaxconv.checkpoint import Array, TensorRef
from jaxconv.distributed import failure
from jaxconv.errors import ProcessError
from jaxconv.json_files import JsonDict, JsonObject

BLOCK = 1 << 12  # bytes; messages are padded to multiples of it, so that few lengths have to be compiled


class Collective:
    """`Processes` of `jax.distributed`, all of which make the same call."""

    def __init__(self) -> None:
        import jax

        self.rank, self.size = jax.process_index(), jax.process_count()
        self._failed = False  # a failure that all processes know of

    def __enter__(self) -> Collective:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.stop(error)
        else:
            self.exchange(None)

    def exchange(self, value: Any) -> list[Any]:
        """The `value` of every process, by rank."""
        return [message["value"] for message in self._exchange({"value": value})]

    def check(self) -> None:
        """Does nothing: failures become known at the next exchange."""

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
                self._exchange({"failed": failure(self.rank, error)})

    def _exchange(self, message: JsonObject) -> list[JsonDict]:
        import numpy as np

        raw = np.frombuffer(json.dumps(message).encode(), np.uint8)
        blocks = int(gather(np.int32(-(-raw.size // BLOCK))).max())
        rows = gather(np.pad(raw, (0, blocks * BLOCK - raw.size), constant_values=ord(" ")))
        messages = [json.loads(row.tobytes()) for row in rows]
        for answer in messages:
            if "failed" in answer:
                self._failed = True
                raise ProcessError(answer["failed"])
        return messages


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
    except jax.errors.JaxRuntimeError as error:
        raise ProcessError(
            f"the processes cannot exchange data: {str(error).strip().splitlines()[0]}. Nothing was published. One of "
            "them died or made another call: look at the logs."
        ) from error
