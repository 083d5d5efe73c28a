"""Models from the hub, by its own client's HTTP functions. Its whole-file function no longer resumes what another process
began, so the partial file is ours.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from llmaas.hosting.models.manifest import HubSource, Source
from llmaas.hosting.models.pull import Progress, PullCancelled, SourceFailed
from llmaas.settings import Secret

_TIMEOUT_S = 10.0
_SHA256_LENGTH = 64


class HubFetcher:
    """`url` empty: the client's default. The token is sent to that address only."""

    def __init__(self, url: str, token: Secret) -> None:
        self._url = url
        self._token = token

    def fetch(self, source: Source, partial: Path, progress: Progress) -> Path:
        # Imported here because it takes half a second, which no other command should pay.
        from huggingface_hub import constants  # noqa: PLC0415

        assert isinstance(source, HubSource)  # noqa: S101 - by the table of fetchers
        _reach(self._url or constants.ENDPOINT)
        if partial.exists() and partial.stat().st_size > source.size_bytes:
            partial.unlink()
        before = -1
        while True:
            try:
                self._fetch_once(source, partial, progress)
                return partial
            except (PullCancelled, SourceFailed):
                raise
            except Exception as error:
                # The connection broke, in one of the many ways that the client's HTTP library has classes for, or the
                # hub said no. As long as each try brings some more, the next goes on from there.
                present = partial.stat().st_size if partial.exists() else 0
                if present <= max(before, 0):
                    raise SourceFailed(f"the hub does not give it: {_first_line(error)}") from error
                before = present

    def _fetch_once(self, source: HubSource, partial: Path, progress: Progress) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url  # noqa: PLC0415
        from huggingface_hub.file_download import http_get  # noqa: PLC0415
        from huggingface_hub.utils._headers import build_hf_headers  # noqa: PLC0415

        token = self._token.reveal() or False
        endpoint = self._url or None
        url = hf_hub_url(source.repository, source.filename, revision=source.revision, endpoint=endpoint)
        facts = get_hf_file_metadata(url, token=token, endpoint=endpoint, timeout=_TIMEOUT_S)
        # Of a large file the hub knows the sha256: better to hear now than after a gigabyte.
        other = facts.etag is not None and len(facts.etag) == _SHA256_LENGTH and facts.etag != source.sha256
        if other or facts.size != source.size_bytes:
            raise SourceFailed(f"the file is not the expected one ({facts.size} bytes, etag {facts.etag})")
        stays = urlsplit(facts.location).netloc == urlsplit(url).netloc
        with partial.open("ab") as file:
            http_get(
                facts.location,
                file,
                resume_size=file.tell(),
                headers=build_hf_headers(token=token if stays else False),
                expected_size=source.size_bytes,
                displayed_filename=source.filename,
                tqdm_class=_bar(progress, source.size_bytes),
            )


def _bar(progress: Progress, size: int) -> Any:
    """What the client reports its progress to."""
    from tqdm import tqdm  # noqa: PLC0415

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})
            self.done_bytes = int(kwargs.get("initial") or 0)
            progress(min(self.done_bytes, size), size)

        def update(self, n: float | None = 1) -> bool | None:
            self.done_bytes += int(n or 0)
            progress(min(self.done_bytes, size), size)
            return None

    return Bar


def _reach(url: str) -> None:
    """The client tries for half a minute before it gives up; an address that nobody answers at is known sooner."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    try:
        socket.create_connection(
            (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)), timeout=_TIMEOUT_S
        ).close()
    except OSError as error:
        raise SourceFailed(
            f"{parts.hostname}, the way to the hub, can't be reached: {error.strerror or error}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
