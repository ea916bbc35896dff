"""Runs one conversion in several processes (usually one per host): membership, agreement, failure propagation.

`Processes` is the single process, which has nothing to do here. `collective` has the processes of `jax.distributed`, and
`supervisor` is what remains when JAX ends one of them.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jaxconv.checkpoint import TensorRef
from jaxconv.errors import BackendUnavailable, ProcessError, UsageError
from jaxconv.version import __version__

JOIN_SECONDS = 120  # within which all processes must be started
HEARTBEAT_SECONDS = 100  # JAX's own default
GRACE_SECONDS = 15  # that JAX may need beyond it to end the processes that are left
ADDRESS = re.compile(r".+:0*(\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])")
FLAGS = ("--coordinator", "--num-processes", "--process-id", "--heartbeat-timeout")
PASS = "Pass --coordinator HOST:PORT --num-processes N --process-id I, with a different number for every process"


class Processes:
    """The processes of one conversion; of this class there is only one. A context: an error that leaves it ends the others.

    Attributes:
        rank: The number of this process. Rank 0 writes the files that are not weights, and publishes.
        size: How many processes there are.
    """

    rank, size = 0, 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Without an error: waits for the others. Raises `ProcessError` if one of them failed."""

    def exchange(self, value: Any) -> list[Any]:
        """Waits for all processes and returns their JSON values `value` by rank. Raises `ProcessError` if one failed."""
        return [value]

    def watch(self, stage: Path) -> None:
        """Notes that all processes see the directory `stage`, for `check`."""

    def check(self) -> None:
        """Raises `ProcessError` if another process is known to have failed. Does not wait."""

    def reading(self, tensors: Sequence[TensorRef]) -> AbstractContextManager[Sequence[TensorRef]]:
        """The tensors of one file, for a block in which one process reads each of them once, in order, and no other does."""
        return nullcontext(tensors)

    def stop(self, error: BaseException) -> None:
        """Tells the others that this process failed with `error`, and waits until they have stopped too."""


ALONE = Processes()


def join(
    distributed: bool, address: tuple[str | None, int | None, int | None], heartbeat_timeout: int | None, backend: str
) -> Processes:
    """Joins the processes of a conversion, by `jax.distributed` unless the program has done so.

    Args:
        distributed: Whether there are others; the other arguments need it.
        address: HOST:PORT of process 0, how many processes there are, and which of them this is; all None if JAX is to detect
            them.
        heartbeat_timeout: Seconds without a sign of life after which a process is lost; None for JAX's default.
        backend: What computes. JAX leaves accelerators to PyTorch, and does not take any for NumPy.

    Returns:
        The processes, all of which have joined.

    Raises:
        BackendUnavailable: JAX is not installed.
        ProcessError: The others cannot be joined.
        UsageError: The arguments do not fit together.
    """
    if not distributed:
        for flag, value in zip(FLAGS, (*address, heartbeat_timeout), strict=True):
            if value is not None:
                raise UsageError(f"{flag} needs --distributed. Add it.")
        return ALONE
    coordinator, seconds = address[0], HEARTBEAT_SECONDS if heartbeat_timeout is None else heartbeat_timeout
    if None in address and address != (None, None, None):
        raise UsageError(
            f"--distributed has only a part of its address. {PASS}; or none of the three where JAX detects them."
        )
    if coordinator is not None and not ADDRESS.fullmatch(coordinator):
        raise UsageError(f"--coordinator {coordinator!r} is not an address; expected HOST:PORT of process 0.")
    if None not in address and not 0 <= (address[2] or 0) < (address[1] or 0):
        raise UsageError(
            f"--process-id {address[2]} is none of --num-processes {address[1]}; expected a number from 0 on that is smaller."
        )
    if seconds < 1:
        raise UsageError(f"--heartbeat-timeout {seconds} is not usable; expected 1 second or more.")
    try:
        import jax
    except ImportError as error:
        raise BackendUnavailable(
            "--distributed joins its processes with jax, whatever --backend computes, and jax is not installed. "
            "Install it with: pip install 'jaxconv[jax]'."
        ) from error
    from jaxconv.distributed.collective import Collective

    try:
        if not jax.distributed.is_initialized():
            if backend in ("torch", "numpy"):
                jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
            jax.config.update("jax_enable_preemption_service", False)  # type: ignore[no-untyped-call]  # it takes SIGTERM
            jax.distributed.initialize(
                *address,
                initialization_timeout=JOIN_SECONDS,
                heartbeat_timeout_seconds=seconds,
                shutdown_timeout_seconds=seconds,
            )
    except Exception as error:  # each kind of cluster raises errors of its own
        if coordinator is not None and not isinstance(error, ValueError):
            reason = str(error).rstrip(". ")
            raise ProcessError(f"the processes cannot be joined at {coordinator}: {reason}. {PASS}.") from error
        cluster = "" if coordinator else " found no TPU pod, Slurm, Open MPI or Kubernetes job around this process"
        raise UsageError(f"--distributed{cluster}: {error} {PASS}.") from error
    processes = Collective(spread=False, patience=seconds + GRACE_SECONDS)
    agree(processes, lambda: {"version of jaxconv": __version__, "number of processes": address[1]})
    return processes


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
