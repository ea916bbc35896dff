"""One conversion by several processes, most often one a host: who they are, how they agree, how a failure of one ends all.

`Alone` is the single process, for which all of this is nothing; `links` joins the processes of `convert --distributed`
over TCP; `collective` those of a JAX program whose arrays are spread over them.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Protocol, TypeVar

from jaxconv.checkpoint import TensorRef
from jaxconv.errors import ProcessError, UsageError

P = TypeVar("P", bound="Processes")


class Processes(Protocol):
    """The processes of one conversion. Used as a context: whoever leaves it by an error tells the others."""

    rank: int  # of this process; the first, 0, writes what is not weights and publishes
    size: int

    def __enter__(self: P) -> P: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Without an error: returns once the first process has left its block well. Raises `ProcessError` if it did not."""
        ...

    def exchange(self, value: Any) -> list[Any]:
        """The JSON values of all processes by rank, once all have given theirs. Raises `ProcessError` if one failed."""
        ...

    def check(self) -> None:
        """Raises `ProcessError` if another process is known to have failed or died. Does not wait."""
        ...

    def reading(self, tensors: Sequence[TensorRef]) -> AbstractContextManager[Sequence[TensorRef]]:
        """The tensors of a file, for the block in which one process reads each once, in order, and the others do not."""
        ...

    def stop(self, error: BaseException) -> None:
        """Tells the others that this process failed, and returns once they stopped too or are gone."""
        ...


class Alone:
    """The only process: agrees with itself."""

    rank, size = 0, 1

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def exchange(self, value: Any) -> list[Any]:
        """The value."""
        return [value]

    def check(self) -> None:
        """Nobody else can have failed."""

    def reading(self, tensors: Sequence[TensorRef]) -> AbstractContextManager[Sequence[TensorRef]]:
        """The tensors as they are."""
        return nullcontext(tensors)

    def stop(self, error: BaseException) -> None:
        """There is nobody to tell."""


ALONE = Alone()


def join(distributed: bool, coordinator: str | None, num_processes: int | None, process_id: int | None) -> Processes:
    """The processes that the flags name; without flags those of the pod or cluster that this process runs in.

    Raises `UsageError` for flags that do not fit together, `ProcessError` when the others do not come.
    """
    given = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    named = [flag for flag, value in given.items() if value is not None]
    if not distributed:
        if named:
            raise UsageError(f"{', '.join(named)} without --distributed; expected both. Add --distributed.")
        return ALONE
    if named and len(named) < len(given):
        missing = ", ".join(flag for flag in given if flag not in named)
        raise UsageError(
            f"--distributed was given {', '.join(named)} and not {missing}; expected all three, or none of them on a TPU pod "
            "or under Slurm, Open MPI or Kubernetes, where they are found."
        )
    from jaxconv.distributed.cluster import find_cluster
    from jaxconv.distributed.links import meet

    if coordinator is None or num_processes is None or process_id is None:
        coordinator, num_processes, process_id = find_cluster()
    host, _, port = coordinator.rpartition(":")
    if not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"--coordinator {coordinator!r} is no address; expected HOST:PORT of process 0, like 10.0.0.1:8476.")
    if num_processes < 1:
        raise UsageError(f"--num-processes {num_processes} is not usable; expected 1 or more.")
    if not 0 <= process_id < num_processes:
        raise UsageError(f"--process-id {process_id} is out of range; expected 0 to {num_processes - 1}, each once.")
    return meet(host.strip("[]"), int(port), num_processes, process_id)


def agree(processes: Processes, facts: Callable[[], Mapping[str, object]]) -> None:
    """Makes sure that every process found the same. Raises `ProcessError` naming the first fact that differs, and where."""
    if processes.size == 1:
        return
    digests = {name: hashlib.sha256(repr(value).encode()).hexdigest() for name, value in facts().items()}
    first, *others = processes.exchange({"host": socket.gethostname(), "facts": digests})
    for rank, other in enumerate(others, 1):
        for name, digest in first["facts"].items():
            if other["facts"][name] != digest:
                raise ProcessError(
                    f"process {rank} on {other['host']} has another {name} than process 0 on {first['host']}; expected the "
                    "same source and the same flags on every host. Nothing was published; start all of them with the same."
                )


def failure(rank: int, error: BaseException) -> str:
    """What the other processes are told of an error; what one heard from another is handed on as it is."""
    if isinstance(error, ProcessError):
        return str(error)
    reason = str(error) or type(error).__name__ if isinstance(error, Exception) else "it was interrupted"
    return f"process {rank} on {socket.gethostname()} failed: {reason}"
