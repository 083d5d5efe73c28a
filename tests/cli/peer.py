"""A real HTTP server with scripted answers, in the place of an inference server or of the service itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answer = tuple[int, Any] | Callable[[BaseHTTPRequestHandler], None]


@dataclass(slots=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Peer:
    """A real HTTP server with scripted answers: what a path gives is (status, body) or a function that writes it."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[Asked] = []
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                headers = {name.lower(): value for name, value in self.headers.items()}
                peer.asked.append(Asked(self.command, self.path, headers, body))
                answer = peer.answers.get(
                    self.path, (404, {"error": {"message": "no such path", "code": "unknown_path"}})
                )
                if callable(answer):
                    answer(self)
                else:
                    reply(self, *answer)

            do_POST = do_GET  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def reply(handler: BaseHTTPRequestHandler, status: int, body: Any, headers: Sequence[tuple[str, str]] = ()) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in [("content-type", "application/json"), ("content-length", str(len(data))), *headers]:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)
