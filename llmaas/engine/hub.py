"""Models from the hub, by its own client, which resumes by itself. Xet is off: plain HTTP resumes and shows progress everywhere."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from llmaas.engine.manifest import HubSource, Source
from llmaas.engine.pull import Progress, PullCancelled, SourceFailed
from llmaas.settings import Secret

_TIMEOUT_S = 10.0


class HubFetcher:
    """`url` empty: the client's default. The token is sent to that address only."""

    def __init__(self, url: str, token: Secret) -> None:
        self._url = url
        self._token = token

    def fetch(self, source: Source, partial: Path, progress: Progress) -> Path:
        # Imported here because it takes half a second, which no other command should pay.
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
        from tqdm import tqdm

        assert isinstance(source, HubSource)  # noqa: S101 - by the table of fetchers
        _reach(self._url or constants.ENDPOINT)
        constants.HF_HUB_DISABLE_XET = True
        size = source.size_bytes

        class Bar(tqdm):  # type: ignore[misc]
            """What the client reports its progress to."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs |= {"disable": True}
                kwargs.pop("name", None)
                super().__init__(*args, **kwargs)
                self.done_bytes = int(kwargs.get("initial") or 0)

            def update(self, n: float | None = 1) -> bool | None:
                self.done_bytes += int(n or 0)
                progress(min(self.done_bytes, size), size)
                return None

        before = -1
        while True:
            try:
                path = hf_hub_download(
                    source.repository,
                    source.filename,
                    revision=source.revision,
                    local_dir=partial,
                    endpoint=self._url or None,
                    token=self._token.reveal() or False,
                    etag_timeout=_TIMEOUT_S,
                    tqdm_class=Bar,
                )
                return Path(path)
            except PullCancelled:
                raise
            except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
                raise SourceFailed(f"the hub does not give it: {_first_line(error)}") from error
            except Exception as error:
                # The connection broke, in one of the many ways that the client's HTTP library has classes for.
                # As long as each try brings some more, the next goes on from there.
                present = sum(file.stat().st_size for file in partial.rglob("*.incomplete"))
                if present <= before:
                    raise SourceFailed(f"the hub does not give it: {_first_line(error)}") from error
                before = present
                progress(present, size)


def _reach(url: str) -> None:
    """The client tries for half a minute before it gives up; an address that nobody answers at is known sooner."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    try:
        socket.create_connection((parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)), timeout=_TIMEOUT_S).close()
    except OSError as error:
        raise SourceFailed(f"{parts.hostname}, the way to the hub, can't be reached: {error.strerror or error}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
