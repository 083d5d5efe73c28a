"""Where an embedded engine listens: known to its launcher, once it runs. Its language is llama.cpp's, see `openai/wire.py`."""

from __future__ import annotations

from llmaas.domain.models import Backend
from llmaas.domain.ports import Launcher
from llmaas.net.client import Origin
from llmaas.settings import Secret


class EmbeddedLocations:
    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def __call__(self, _backend: Backend, root: str) -> tuple[Origin, str, Secret | None]:
        """Raises Loading, NoBackend."""
        address = self._launcher.ensure_ready(root)
        origin, path = Origin.of(address.base_url)
        return origin, f"{path}/v1", Secret(address.api_key) if address.api_key else None
