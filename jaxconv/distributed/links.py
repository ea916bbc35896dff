"""Processes that are each linked to the first by one TCP connection, so that one that dies is seen at once.

Not `jax.distributed.initialize()`: its client ends the process (SIGABRT, jaxlib 0.10) when a peer dies or does not come,
so that nobody would be left to say why and to remove what was staged; and it would tie conversion to one framework.
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
from jaxconv.version import __version__

JOIN_SECONDS = 120  # in which all processes have to be started
STOP_SECONDS = 60  # that a failed process waits for the others to stop
HELLO_SECONDS = 10  # in which who connects has to say who it is
MESSAGE_BYTES = 1 << 26
# A host that is gone without a word (power, network) is noticed after IDLE + INTVL x CNT seconds.
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6}


class Links:
    """`Processes` over connections: the first process has one to each other, the others one to the first."""

    def __init__(self, rank: int, size: int, peers: Mapping[int, Connection], hosts: Mapping[int, str]) -> None:
        self.rank, self.size = rank, size
        self._peers = {connection: peer for peer, connection in peers.items()}
        self._hosts = hosts
        self._arrived: dict[int, Any] = {}
        self._ended: set[Connection] = set()  # whose failure was heard
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
        """The values of all by rank. A live process is waited for as long as it works; one that died is seen."""
        if self.rank != 0:
            self._tell({"value": value})
            return list(self._await_all()[0])
        values = [value, *self._await_all().values()]
        self._tell({"value": values})
        return values

    def check(self) -> None:
        """Takes what has arrived."""
        for connection in wait(list(self._peers), 0):
            self._take(connection)  # type: ignore[arg-type]

    def reading(self, tensors: Sequence[TensorRef]) -> AbstractContextManager[Sequence[TensorRef]]:
        """The tensors as they are: every process has the source."""
        return contextlib.nullcontext(tensors)

    def stop(self, error: BaseException) -> None:
        """Says why; the first process then waits for all others to have said so too, and they for the first to close."""
        if self._stopped:
            return
        self._stopped = True
        self._tell({"failed": failure(self.rank, error)})
        # The others wait for the first to close, even if they have heard from it.
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
                f"process {peer} on {self._hosts[peer]} is gone before the conversion was done (killed, or its host is "
                "lost). Nothing was published; look at its log, then start the command again on every host."
            )
        if "failed" in message:
            self._ended.add(connection)
            raise ProcessError(message["failed"])
        self._arrived[peer] = message["value"]

    def _tell(self, message: Mapping[str, Any]) -> None:
        for connection in self._peers:
            _send(connection, message)


def meet(host: str, port: int, size: int, rank: int) -> Links:
    """Joins the processes: the first listens at the address, the others come to it and say who they are.

    Raises `ProcessError` when not all come in time, or when they were started differently.
    """
    hello = {"jaxconv": __version__, "size": size, "rank": rank, "host": socket.gethostname()}
    if rank == 0:
        return _gather(host, port, size, hello)
    connection = _connect(host, port)
    _send(connection, hello)
    answer = _receive(connection) if connection.poll(JOIN_SECONDS + HELLO_SECONDS) else None
    if answer is None or "host" not in answer:
        connection.close()
        said = answer.get("failed") if answer else None
        raise ProcessError(
            said
            or f"{host}:{port} answered, but not as process 0 of this conversion; expected the address that process 0 "
            "was given. Check --coordinator, and start the command again on every host."
        )
    return Links(rank, size, {0: connection}, {0: answer["host"]})


def _gather(host: str, port: int, size: int, hello: Mapping[str, Any]) -> Links:
    peers: dict[int, Connection] = {}
    hosts: dict[int, str] = {}
    deadline, wrong = time.monotonic() + JOIN_SECONDS, None
    with _listen(host, port) as listener:
        while wrong is None and len(peers) < size - 1:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection = _wrap(listener.accept()[0])
            except TimeoutError:
                missing = ", ".join(str(rank) for rank in range(1, size) if rank not in peers)
                wrong = (
                    f"{len(peers) + 1} of {size} processes came to {host}:{port} in {JOIN_SECONDS} seconds, not process "
                    f"{missing}. Start the same command on every host, each with a --process-id of its own."
                )
                break
            other = _receive(connection)
            if other is None or "jaxconv" not in other:  # no process of ours
                connection.close()
            elif (wrong := _wrong(other, hello, peers)) is None:
                peers[other["rank"]], hosts[other["rank"]] = connection, other["host"]
            else:
                _send(connection, {"failed": wrong})
    for connection in peers.values():
        _send(connection, hello if wrong is None else {"failed": wrong})
    if wrong is not None:
        raise ProcessError(wrong)
    return Links(0, size, peers, hosts)


def _wrong(other: Mapping[str, Any], own: Mapping[str, Any], peers: Mapping[int, Connection]) -> str | None:
    """Why a process cannot belong to these, or None."""
    who = f"process {other.get('rank')} on {other.get('host')}"
    for name, what in (("jaxconv", "runs jaxconv"), ("size", "was given --num-processes")):
        if other.get(name) != own[name]:
            return f"{who} {what} {other.get(name)}, process 0 on {own['host']} {own[name]}; expected the same on every host."
    if other.get("rank") in (0, *peers):
        return f"{who} came a second time; expected each --process-id once, 0 to {own['size'] - 1}."
    return None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        try:
            return socket.create_server(address[:2], family=family, backlog=1024)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL,):
                raise
            return socket.create_server(
                ("", port), family=family, backlog=1024
            )  # a name for us that is not ours, as behind NAT
    except OSError as error:
        raise ProcessError(
            f"process 0 cannot listen at {host}:{port}: {error.strerror or error}. Expected an address of its own host and a "
            "free port; name another in --coordinator, the same on every host."
        ) from error


def _connect(host: str, port: int) -> Connection:
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            return _wrap(socket.create_connection((host, port), timeout=HELLO_SECONDS))
        except OSError as error:
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"process 0 did not answer at {host}:{port} in {JOIN_SECONDS} seconds: {error.strerror or error}. Start "
                    "the same command on the host that --coordinator names, with --process-id 0."
                ) from error
            time.sleep(0.2)


def _wrap(connected: socket.socket) -> Connection:
    """The socket as a connection with message borders, closed by the system when its other end is lost."""
    connected.settimeout(None)
    # A message that has begun to arrive is here soon, or never.
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", HELLO_SECONDS, 0))
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in KEEPALIVE.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    return Connection(connected.detach())


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # whoever is gone is found out when it is listened to
        connection.send_bytes(json.dumps(message).encode())


def _receive(connection: Connection) -> dict[str, Any] | None:
    """The next message; None when the other end is closed, or is no process of ours."""
    try:
        message = json.loads(connection.recv_bytes(MESSAGE_BYTES))
    except (EOFError, OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
