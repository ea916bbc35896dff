"""A server between a client and another server, which breaks connections in the middle of an answer or a request."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator


class Breaking(socketserver.ThreadingTCPServer):
    """Passes bytes on, and breaks a connection over which more than `limit` bytes went in one direction.

    Attributes:
        breaks: How many connections it still breaks.
        broken: How many it has broken.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, target: tuple[str, int], limit: int) -> None:
        super().__init__(("127.0.0.1", 0), _Pipe)
        self.target, self.limit, self.breaks, self.broken = target, limit, 0, 0
        self.lock = threading.Lock()

    def takes_break(self) -> bool:
        """Whether a connection that has reached the limit is broken now."""
        with self.lock:
            if self.breaks <= 0:
                return False
            self.breaks -= 1
            self.broken += 1
            return True


class _Pipe(socketserver.BaseRequestHandler):
    server: Breaking

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as upstream:
            back = threading.Thread(target=self.pass_on, args=(upstream, self.request), daemon=True)
            back.start()
            self.pass_on(self.request, upstream)
            back.join()

    def pass_on(self, source: socket.socket, target: socket.socket) -> None:
        """Passes bytes on until one side hangs up."""
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                passed += len(data)
                if passed > self.server.limit and self.server.takes_break():
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def breaking(target: tuple[str, int], limit: int) -> Iterator[Breaking]:
    """A server in front of another one, as long as the block runs.

    Args:
        target: Host and port of the other one.
        limit: The bytes of a direction after which connections are broken, while `breaks` lasts.
    """
    server = Breaking(target, limit)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
