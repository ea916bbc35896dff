"""Runs one conversion across several processes (usually one per host): membership, agreement, failure propagation.

`Alone` is the single process, which has nothing to do here. `links` joins the processes of `convert --distributed` over TCP,
`collective` those of a JAX program whose arrays are spread over them.
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
    """The processes of one conversion. A context: a process that leaves it by an error tells the others.

    Attributes:
        rank: The number of this process. Rank 0 writes the files that are not weights, and publishes.
        size: How many processes there are.
    """

    rank: int
    size: int

    def __enter__(self: P) -> P: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Without an error: waits until rank 0 has left its block. Raises `ProcessError` if rank 0 failed."""
        ...

    def exchange(self, value: Any) -> list[Any]:
        """Waits for all processes and returns their values.

        Args:
            value: Any JSON value.

        Returns:
            The values of all processes, by rank.

        Raises:
            ProcessError: A process failed or died.
        """
        ...

    def check(self) -> None:
        """Raises `ProcessError` if another process is known to have failed or died. Does not wait."""
        ...

    def reading(self, tensors: Sequence[TensorRef]) -> AbstractContextManager[Sequence[TensorRef]]:
        """The tensors of one file, for a block in which one process reads each of them once, in order, and no other does."""
        ...

    def stop(self, error: BaseException) -> None:
        """Tells the others that this process failed with `error`, and waits until they have stopped too or are gone."""
        ...


class Alone:
    """The only process."""

    rank, size = 0, 1

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def exchange(self, value: Any) -> list[Any]:
        """The value alone."""
        return [value]

    def check(self) -> None:
        """No other process can have failed."""

    def reading(self, tensors: Sequence[TensorRef]) -> AbstractContextManager[Sequence[TensorRef]]:
        """The tensors as they are."""
        return nullcontext(tensors)

    def stop(self, error: BaseException) -> None:
        """Does nothing with `error`: there is no other process to tell."""


ALONE = Alone()


def join(distributed: bool, coordinator: str | None, num_processes: int | None, process_id: int | None) -> Processes:
    """Joins the processes of a conversion.

    Args:
        distributed: Whether there are others; the remaining arguments need it.
        coordinator: HOST:PORT of process 0. Give all of the last three, or none in a pod or cluster.
        num_processes: How many processes there are.
        process_id: Which of them this is, from 0.

    Returns:
        The processes, all of which have joined.

    Raises:
        BackendUnavailable: The cluster is to be detected and JAX is not installed.
        ProcessError: The others do not come.
        UsageError: The arguments do not fit together.
    """
    values = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    present = [flag for flag, value in values.items() if value is not None]
    if not distributed:
        if present:
            raise UsageError(f"{', '.join(present)} needs --distributed. Add it.")
        return ALONE
    missing = [flag for flag, value in values.items() if value is None]
    if present and missing:
        raise UsageError(
            f"--distributed has {', '.join(present)} but not {', '.join(missing)}. Pass all three, or none of them on a TPU "
            "pod or under Slurm, Open MPI or Kubernetes, where they are detected."
        )
    from jaxconv.distributed.cluster import find_cluster
    from jaxconv.distributed.links import meet

    if coordinator is None or num_processes is None or process_id is None:
        coordinator, num_processes, process_id = find_cluster()
    host, port = parse_address(coordinator)
    if num_processes < 1:
        raise UsageError(f"--num-processes {num_processes} is not usable; expected 1 or more.")
    if not 0 <= process_id < num_processes:
        raise UsageError(f"--process-id {process_id} is out of range; expected 0 to {num_processes - 1}, each once.")
    return meet(host, port, num_processes, process_id)


def parse_address(coordinator: str) -> tuple[str, int]:
    """The host and the port of process 0.

    Args:
        coordinator: "HOST:PORT"; brackets around an IPv6 address are removed.

    Raises:
        UsageError: It is anything else.
    """
    host, _, port = coordinator.rpartition(":")
    if not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(
            f"--coordinator {coordinator!r} is not an address; expected HOST:PORT of process 0, like 10.0.0.1:8476."
        )
    return host.strip("[]"), int(port)


def agree(processes: Processes, facts: Callable[[], Mapping[str, object]]) -> None:
    """Makes sure that all processes see the same.

    Args:
        processes: The processes of the conversion.
        facts: Returns what must be equal: name -> value with a stable `repr`. Not called for a single process.

    Raises:
        ProcessError: A value differs; the message names it and the hosts.
    """
    if processes.size == 1:
        return
    digests = {name: hashlib.sha256(repr(value).encode()).hexdigest() for name, value in facts().items()}
    first, *others = processes.exchange({"host": socket.gethostname(), "facts": digests})
    for rank, other in enumerate(others, 1):
        for name, digest in first["facts"].items():
            if other["facts"][name] != digest:
                raise ProcessError(
                    f"process {rank} on {other['host']} has another {name} than process 0 on {first['host']}. Nothing was "
                    "published. Start all processes with the same source and the same flags."
                )


def failure(rank: int, error: BaseException) -> str:
    """The message to the other processes about an error here.

    Args:
        rank: The number of this process.
        error: What was raised. A `ProcessError` came from another process, and its message is passed on as it is.
    """
    if isinstance(error, ProcessError):
        return str(error)
    reason = str(error) or type(error).__name__ if isinstance(error, Exception) else "it was interrupted"
    return f"process {rank} on {socket.gethostname()} failed: {reason}"
