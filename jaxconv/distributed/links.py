"""Joins processes by one TCP connection from each to rank 0, so that a process that dies is noticed at once.

`jax.distributed.initialize()` would not do: its client aborts the process (SIGABRT, jaxlib 0.10) when a peer dies or does not
come, which leaves no process to report it and to remove what was staged; and it would tie conversion to one framework.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from jaxconv.checkpoint import TensorRef
from jaxconv.distributed import failure
from jaxconv.errors import ProcessError
from jaxconv.json_files import JsonDict, JsonObject
from jaxconv.version import __version__

JOIN_SECONDS = 120  # within which all processes must be started
STOP_SECONDS = 60  # that a failed process waits for the others to stop
HELLO_SECONDS = 10  # within which a new connection must identify itself
MESSAGE_BYTES = 1 << 26  # the longest message
# A host that disappears (power, network) is noticed after IDLE + INTVL x CNT seconds.
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6}


class Links:
    """`Processes` over TCP: rank 0 has a connection to each other process, the others have one to rank 0."""

    def __init__(self, rank: int, size: int, peers: Mapping[int, Connection], hosts: Mapping[int, str]) -> None:
        self.rank, self.size = rank, size
        self._peers = {connection: peer for peer, connection in peers.items()}
        self._hosts = hosts
        self._arrived: dict[int, Any] = {}
        self._ended: set[Connection] = set()  # whose failure has been received
        self._stopped = False

    def __enter__(self) -> Links:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is not None:
                self.stop(error)
            elif self.rank == 0:
                self._tell({"value": None})
            else:
                self._await_all()
        finally:
            for connection in self._peers:
                connection.close()

    def exchange(self, value: Any) -> list[Any]:
        """The `value` of every process, by rank. Waits as long as a process lives; one that dies is noticed."""
        if self.rank != 0:
            self._tell({"value": value})
            return list(self._await_all()[0])
        values = [value, *self._await_all().values()]
        self._tell({"value": values})
        return values

    def check(self) -> None:
        """Receives what has arrived. Raises `ProcessError` for a failure among it."""
        for connection in wait(list(self._peers), 0):
            self._take(connection)  # type: ignore[arg-type]

    def reading(self, tensors: Sequence[TensorRef]) -> AbstractContextManager[Sequence[TensorRef]]:
        """The tensors as they are: every process has the source."""
        return contextlib.nullcontext(tensors)

    def stop(self, error: BaseException) -> None:
        """Tells the others of `error`. Rank 0 then waits until all others have stopped, and they wait until rank 0 closes."""
        if self._stopped:
            return
        self._stopped = True
        self._tell({"failed": failure(self.rank, error)})
        # The others wait for rank 0 to close even if its failure has reached them.
        running = set(self._peers) - (self._ended if self.rank == 0 else set())
        deadline = time.monotonic() + STOP_SECONDS
        while running and (ready := wait(list(running), max(0.0, deadline - time.monotonic()))):
            for connection in ready:
                assert isinstance(connection, Connection)
                message = _receive(connection)
                if message is None or (self.rank == 0 and "failed" in message):
                    running.remove(connection)
        if self.rank == 0:
            for connection in self._peers:
                connection.close()
            self._peers = {}

    def _await_all(self) -> dict[int, Any]:
        """One value of every peer, by rank."""
        while len(self._arrived) < len(self._peers):
            for connection in wait(list(self._peers)):
                self._take(connection)  # type: ignore[arg-type]
        arrived, self._arrived = dict(sorted(self._arrived.items())), {}
        return arrived

    def _take(self, connection: Connection) -> None:
        peer = self._peers[connection]
        message = _receive(connection)
        if message is None:
            raise ProcessError(
                f"process {peer} on {self._hosts[peer]} died before the conversion was done (killed, or its host was "
                "lost). Nothing was published. Look at its log, then start the command again on every host."
            )
        if "failed" in message:
            self._ended.add(connection)
            raise ProcessError(message["failed"])
        self._arrived[peer] = message["value"]

    def _tell(self, message: JsonObject) -> None:
        for connection in self._peers:
            _send(connection, message)


def meet(host: str, port: int, size: int, rank: int) -> Links:
    """Joins the processes: rank 0 listens at the address, the others connect to it and identify themselves.

    Args:
        host: The host of rank 0.
        port: The port that rank 0 listens on.
        size: How many processes there are.
        rank: Which of them this is.

    Raises:
        ProcessError: A process does not come in time, or was started differently.
    """
    hello = {"jaxconv": __version__, "size": size, "rank": rank, "host": socket.gethostname()}
    if rank == 0:
        return _gather(host, port, size, hello)
    connection = _connect(host, port)
    _send(connection, hello)
    answer = _receive(connection) if connection.poll(JOIN_SECONDS + HELLO_SECONDS) else None
    if answer is None or "host" not in answer:
        connection.close()
        reason = answer.get("failed") if answer else None
        raise ProcessError(
            reason
            or f"{host}:{port} answered, but not as process 0 of this conversion. "
            "Check --coordinator, and start the command again on every host."
        )
    return Links(rank, size, {0: connection}, {0: answer["host"]})


def _gather(host: str, port: int, size: int, hello: JsonObject) -> Links:
    peers: dict[int, Connection] = {}
    hosts: dict[int, str] = {}
    deadline, problem = time.monotonic() + JOIN_SECONDS, None
    with _listen(host, port) as listener:
        while problem is None and len(peers) < size - 1:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection = _wrap(listener.accept()[0])
            except TimeoutError:
                missing = ", ".join(str(rank) for rank in range(1, size) if rank not in peers)
                problem = (
                    f"{len(peers) + 1} of {size} processes connected to {host}:{port} within {JOIN_SECONDS} seconds; "
                    f"missing: {missing}. Start the same command on every host, each with its own --process-id."
                )
                break
            other = _receive(connection)
            if other is None or "jaxconv" not in other:  # not a jaxconv process
                connection.close()
            elif (problem := _mismatch(other, hello, peers)) is None:
                peers[other["rank"]], hosts[other["rank"]] = connection, other["host"]
            else:
                _send(connection, {"failed": problem})
    for connection in peers.values():
        _send(connection, hello if problem is None else {"failed": problem})
    if problem is not None:
        raise ProcessError(problem)
    return Links(0, size, peers, hosts)


def _mismatch(other: JsonObject, first: JsonObject, peers: Mapping[int, Connection]) -> str | None:
    """Why a process does not belong to this conversion; None if it does."""
    name = f"process {other.get('rank')} on {other.get('host')}"
    for key, verb in (("jaxconv", "runs jaxconv"), ("size", "has --num-processes")):
        if other.get(key) != first[key]:
            return f"{name} {verb} {other.get(key)}, process 0 on {first['host']} {first[key]}. Use the same on every host."
    if other.get("rank") in (0, *peers):
        return f"{name} connected twice. Use each --process-id once, 0 to {first['size'] - 1}."
    return None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        try:
            return socket.create_server(address[:2], family=family, backlog=1024)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            # The address is not one of this host, as behind NAT: listen on all of them.
            return socket.create_server(("", port), family=family, backlog=1024)
    except OSError as error:
        raise ProcessError(
            f"process 0 cannot listen at {host}:{port}: {error.strerror or error}. Name an address of its host and a free "
            "port in --coordinator, the same on every host."
        ) from error


def _connect(host: str, port: int) -> Connection:
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            return _wrap(socket.create_connection((host, port), timeout=HELLO_SECONDS))
        except OSError as error:
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"process 0 did not answer at {host}:{port} within {JOIN_SECONDS} seconds: {error.strerror or error}. "
                    "Start the same command on the host that --coordinator names, with --process-id 0."
                ) from error
            time.sleep(0.2)


def _wrap(connected: socket.socket) -> Connection:
    """The socket as a connection with message boundaries, closed by the system when the other end is lost."""
    connected.settimeout(None)
    # The rest of a message that has begun to arrive comes soon, or never.
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", HELLO_SECONDS, 0))
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in KEEPALIVE.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    return Connection(connected.detach())


def _send(connection: Connection, message: JsonObject) -> None:
    with contextlib.suppress(OSError):  # a process that is gone is noticed when receiving
        connection.send_bytes(json.dumps(message).encode())


def _receive(connection: Connection) -> JsonDict | None:
    """The next message; None if the other end is closed, or is not a jaxconv process."""
    try:
        message = json.loads(connection.recv_bytes(MESSAGE_BYTES))
    except (EOFError, OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
