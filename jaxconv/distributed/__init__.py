"""Runs one conversion in several processes (usually one per host): membership, agreement, failure propagation.

`Processes` is the single process, which has nothing to do here. `collective` has the processes of `jax.distributed`, and
`supervisor` is what remains when JAX ends one of them.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, TypeVar

from jaxconv.checkpoint import TensorRef
from jaxconv.errors import BackendUnavailable, ProcessError, UsageError

P = TypeVar("P", bound="Processes")

JOIN_SECONDS = 120  # within which all processes must be started
HEARTBEAT_SECONDS = 100  # JAX's own default
PORTS = range(1, 1 << 16)


class Processes:
    """The processes of one conversion; of this class there is only one. A context: an error that leaves it ends the others.

    Attributes:
        rank: The number of this process. Rank 0 writes the files that are not weights, and publishes.
        size: How many processes there are.
    """

    rank, size = 0, 1

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Without an error: waits for the others. Raises `ProcessError` if one of them failed."""

    def exchange(self, value: Any) -> list[Any]:
        """Waits for all processes and returns their JSON values `value` by rank. Raises `ProcessError` if one failed."""
        return [value]

    def check(self) -> None:
        """Raises `ProcessError` if another process is known to have failed. Does not wait."""

    def reading(self, tensors: Sequence[TensorRef]) -> AbstractContextManager[Sequence[TensorRef]]:
        """The tensors of one file, for a block in which one process reads each of them once, in order, and no other does."""
        return nullcontext(tensors)

    def stop(self, error: BaseException) -> None:
        """Tells the others that this process failed with `error`, and waits until they have stopped too."""


ALONE = Processes()


def join(
    distributed: bool,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    heartbeat_timeout: int | None,
    on_cpu: bool,
) -> Processes:
    """Joins the processes of a conversion.

    Args:
        distributed: Whether there are others; the remaining arguments need it.
        coordinator: HOST:PORT of process 0. Give all of these three, or none in a pod or cluster.
        num_processes: How many processes there are.
        process_id: Which of them this is, from 0.
        heartbeat_timeout: Seconds without a sign of life after which a process is lost; None for JAX's default.
        on_cpu: Leave accelerators to another framework.

    Returns:
        The processes, all of which have joined.

    Raises:
        BackendUnavailable: JAX is not installed.
        ProcessError: The others cannot be joined.
        UsageError: The arguments do not fit together.
    """
    address = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    values = {**address, "--heartbeat-timeout": heartbeat_timeout}
    present = [flag for flag, value in values.items() if value is not None]
    if not distributed:
        if present:
            raise UsageError(f"{', '.join(present)} needs --distributed. Add it.")
        return ALONE
    _check_address(address, coordinator, num_processes, process_id)
    if heartbeat_timeout is not None and heartbeat_timeout < 1:
        raise UsageError(f"--heartbeat-timeout {heartbeat_timeout} is not usable; expected 1 second or more.")
    try:
        import jax
    except ImportError as error:
        raise BackendUnavailable(
            "--distributed joins its processes with jax, whatever --backend computes, and jax is not installed. "
            "Install it with: pip install 'jaxconv[jax]'."
        ) from error
    from jaxconv.distributed.collective import Hosts

    seconds = HEARTBEAT_SECONDS if heartbeat_timeout is None else heartbeat_timeout
    if not jax.distributed.is_initialized():
        if on_cpu:
            jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
        try:
            jax.distributed.initialize(
                coordinator, num_processes, process_id,
                initialization_timeout=JOIN_SECONDS, heartbeat_timeout_seconds=seconds, shutdown_timeout_seconds=seconds,
            )  # fmt: skip
        except Exception as error:  # each kind of cluster raises errors of its own
            raise _cannot_join(error, coordinator) from error
    return Hosts(seconds)


def _check_address(
    address: Mapping[str, object], coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Raises `UsageError` unless the three values are absent, or name a process."""
    present = [flag for flag, value in address.items() if value is not None]
    missing = [flag for flag in address if flag not in present]
    if present and missing:
        raise UsageError(
            f"--distributed has {', '.join(present)} but not {', '.join(missing)}. Pass all three, or none of them on a TPU "
            "pod or under Slurm, Open MPI or Kubernetes, where they are detected."
        )
    if coordinator is None or num_processes is None or process_id is None:
        return
    host, _, port = coordinator.rpartition(":")
    if not host.strip("[]") or not port.isdecimal() or int(port) not in PORTS:
        raise UsageError(
            f"--coordinator {coordinator!r} is not an address; expected HOST:PORT of process 0, like 10.0.0.1:8476."
        )
    if num_processes < 1:
        raise UsageError(f"--num-processes {num_processes} is not usable; expected 1 or more.")
    if not 0 <= process_id < num_processes:
        raise UsageError(f"--process-id {process_id} is out of range; expected 0 to {num_processes - 1}, each once.")


def _cannot_join(error: Exception, coordinator: str | None) -> ProcessError | UsageError:
    reason = str(error) or type(error).__name__
    if coordinator is not None:
        return ProcessError(
            f"the processes cannot be joined at {coordinator}: {reason}. Name an address of the host of process 0 and a free "
            "port in --coordinator, the same on every host."
        )
    return UsageError(
        f"--distributed found no TPU pod, Slurm, Open MPI or Kubernetes job around this process: {reason}. "
        "Pass --coordinator HOST:PORT --num-processes N --process-id I, with a different number on every host."
    )


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
            if other["facts"].get(name) != digest:
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
