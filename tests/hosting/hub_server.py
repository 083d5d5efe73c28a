"""The hub's HTTP interface as far as its client uses it for one file: HEAD and GET of `/{repository}/resolve/{revision}/{file}`."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class HubServer:
    """`files` by `repository/file`. `cuts`: after how many bytes the next answers break off; `seen`: (method, range, token)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.etag = ""
        self.seen: list[tuple[str, str | None, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                outer.answer(self, with_body=False)

            def do_GET(self) -> None:
                outer.answer(self, with_body=True)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def ranges(self) -> list[str | None]:
        return [asked for method, asked, _ in self.seen if method == "GET"]

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        asked = request.headers.get("range")
        self.seen.append((request.command, asked, request.headers.get("authorization")))
        repository, _, rest = request.path.lstrip("/").partition("/resolve/")
        data = self.files.get(f"{repository}/{rest.partition('/')[2]}")
        if data is None:
            request.send_response(404)
            request.send_header("X-Error-Code", "EntryNotFound")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        request.send_response(206 if asked else 200)
        if asked:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("ETag", f'"{self.etag or hashlib.sha256(data).hexdigest()}"')
        request.send_header("X-Repo-Commit", "0" * 40)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        if not with_body:
            return
        end = len(data)
        if self.cuts:
            end = start + self.cuts.pop(0)
            request.close_connection = True
        with contextlib.suppress(ConnectionError):
            request.wfile.write(data[start:end])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
