"""`/static/<hash>/<name>`: stylesheet, scripts and icons. The hash is of all of them, so that a browser keeps them for good."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from hashlib import blake2b
from importlib import resources
from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import PUBLIC
from llmaas.admin_api.shapes import PathId
from llmaas.errors import NotFound

_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class StaticFile:
    media_type: str
    body: bytes
    zipped: bytes


class StaticFiles:
    """All files of `console/static`, in memory."""

    def __init__(self) -> None:
        digest = blake2b(digest_size=8)
        self._files: dict[str, StaticFile] = {}
        folder = resources.files("llmaas.console").joinpath("static")
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            kind = _KINDS.get(file.name.rpartition(".")[2])
            if kind is None:
                continue
            body = file.read_bytes()
            digest.update(file.name.encode() + b"\0" + body)
            self._files[file.name] = StaticFile(kind, body, gzip.compress(body, mtime=0))
        self.version = digest.hexdigest()

    def url(self, name: str) -> str:
        """Raises KeyError for a file that is not there: a template is wrong."""
        _ = self._files[name]
        return f"/static/{self.version}/{name}"

    def find(self, name: str) -> StaticFile:
        """Raises NotFound."""
        try:
            return self._files[name]
        except KeyError:
            raise NotFound("There is no such file.") from None


TheStaticFiles = NamedDependency[StaticFiles]


@get("/static/{version:str}/{name:str}", opt={"permission": PUBLIC}, sync_to_thread=False)
def static_file(
    static_files: TheStaticFiles, request: Request[Any, Any, Any], version: PathId, name: PathId
) -> Response[bytes]:
    """An older page may ask by an older hash: it gets what there is now, and does not keep it."""
    file = static_files.find(name)
    headers = {
        "cache-control": _FOREVER if version == static_files.version else "no-cache",
        "vary": "accept-encoding",
    }
    body = file.body
    if "gzip" in request.headers.get("accept-encoding", ""):
        body, headers["content-encoding"] = file.zipped, "gzip"
    return Response(body, headers=headers, media_type=file.media_type)


ROUTES: tuple[HTTPRouteHandler, ...] = (static_file,)
