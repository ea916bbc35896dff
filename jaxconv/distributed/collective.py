"""The processes of a JAX program, for arrays that are spread over them: they agree by collectives, as JAX's own tools do.

All take part in every collective, in the same order; one that has failed goes on doing so up to where the others look.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

from jaxconv.checkpoint import Array, TensorRef
from jaxconv.distributed import failure
from jaxconv.errors import ProcessError

BLOCK = 1 << 12  # bytes that messages are filled up to, so that few lengths have to be compiled


class Collective:
    """`Processes` of `jax.distributed`: all of them have to make the same call."""

    def __init__(self) -> None:
        import jax

        self.rank, self.size = jax.process_index(), jax.process_count()
        self._told = False  # all processes know of a failure

    def __enter__(self) -> Collective:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.stop(error)
        else:
            self.exchange(None)

    def exchange(self, value: Any) -> list[Any]:
        """The values of all by rank."""
        return [said["value"] for said in self._exchange({"value": value})]

    def check(self) -> None:
        """Nothing is known before all come together again."""

    @contextlib.contextmanager
    def reading(self, tensors: Sequence[TensorRef]) -> Iterator[Sequence[TensorRef]]:
        """Reading takes all processes: what the block has left unread, on its own or by an error, is read at its end."""
        left = deque(tensors)

        def read(ref: TensorRef) -> Array:
            left.popleft()
            return ref.read()

        try:
            yield [replace(ref, read=partial(read, ref)) for ref in tensors]
        finally:
            while left:
                left.popleft().read()
        self.exchange(None)

    def stop(self, error: BaseException) -> None:
        """Says why, where the others come to next."""
        if not self._told:
            self._told = True
            with contextlib.suppress(ProcessError):
                self._exchange({"failed": failure(self.rank, error)})

    def _exchange(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        import numpy as np

        raw = np.frombuffer(json.dumps(message).encode(), np.uint8)
        blocks = int(gather(np.int32(-(-raw.size // BLOCK))).max())
        rows = gather(np.pad(raw, (0, blocks * BLOCK - raw.size), constant_values=ord(" ")))
        messages = [json.loads(row.tobytes()) for row in rows]
        for said in messages:
            if "failed" in said:
                self._told = True
                raise ProcessError(said["failed"])
        return messages


def gather(array: Any) -> Array:
    """All of an array that is spread over processes; of one that each process has its own, all of them on a new axis.

    Raises `ProcessError` when a process is gone.
    """
    import jax
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    try:
        return np.asarray(process_allgather(array, tiled=isinstance(array, jax.Array)))
    except jax.errors.JaxRuntimeError as error:
        raise ProcessError(
            f"the processes cannot exchange data: {str(error).strip().splitlines()[0]}. Expected all processes alive and in "
            "the same call. Nothing was published; look at the log of the one that is gone."
        ) from error
