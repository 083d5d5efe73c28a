"""Where a backend listens and with which credential, from the catalogue."""

from __future__ import annotations

from collections.abc import Mapping

from llmaas.domain.models import Backend
from llmaas.errors import NoBackend
from llmaas.net.client import Origin
from llmaas.settings import Secret


class RemoteLocations:
    """`credentials` by provider id; None: the provider names a credential that is not there."""

    def __init__(self, credentials: Mapping[str, Secret | None]) -> None:
        self._credentials = credentials
        self._origins: dict[str, tuple[Origin, str]] = {}

    def __call__(self, backend: Backend, _root: str) -> tuple[Origin, str, Secret | None]:
        """Raises NoBackend when the credential is missing."""
        located = self._origins.get(backend.base_url)
        if located is None:
            located = self._origins[backend.base_url] = Origin.of(backend.base_url)
        if backend.provider_id in self._credentials:
            credential = self._credentials[backend.provider_id]
            if credential is None:
                raise NoBackend("The provider of this model is not usable at the moment.", retry_after_s=10)
            return *located, credential
        return *located, None
