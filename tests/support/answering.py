"""A plain HTTP server on the loopback that speaks as much of vLLM's protocol as a test tells it to, rightly or not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], Any]  # the JSON of a request -> the JSON of the answer, or (status, text)


@contextmanager
def answering(models: Any, score: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server with this answer to /v1/models and this one to /score: its address, and the requests it got."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

        def _send(self, found: Any) -> None:
            status, text = found if isinstance(found, tuple) else (200, json.dumps(found))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self) -> None:
            self._send(models if self.path == "/v1/models" else (404, "{}"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({**body, "authorization": self.headers.get("Authorization")})
            self._send(score(body) if self.path == "/score" else (404, "{}"))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
