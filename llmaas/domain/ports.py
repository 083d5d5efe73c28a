"""What the product needs from outside, by role. Storage and state implement these; `app.py` picks the implementation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmaas.domain.access import Caller
from llmaas.domain.catalogue import Catalogue
from llmaas.domain.usage import UsageRow


class KeyStore(Protocol):
    async def callers(self, kids: Sequence[str]) -> dict[str, Caller]:
        """The keys with those ids and their projects, also when they are expired or revoked."""
        ...


class CatalogueStore(Protocol):
    async def load(self) -> Catalogue:
        """The present catalogue, read in one transaction."""
        ...


@dataclass(frozen=True, slots=True)
class Revisions:
    """Numbers that grow with each committed change of that kind, by whatever process."""

    catalogue: int
    keys: int
    money: int


class RevisionStore(Protocol):
    async def read(self) -> Revisions: ...


class UsageLog(Protocol):
    def append(self, row: UsageRow) -> asyncio.Future[None]:
        """Hand a row over, at once and without waiting; the future is done when the row is durable.

        A row whose id is there already changes nothing. The future fails with LedgerUnavailable when neither the
        database nor the spool takes the row.
        """
        ...

    @property
    def accepting(self) -> bool:
        """False when the last rows found no durable place: new work must be refused."""
        ...


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where a running embedded engine listens (`http://127.0.0.1:PORT`, no path) and the key that it asks for."""

    base_url: str
    api_key: str


class Launcher(Protocol):
    def ensure_ready(self, root: str) -> EngineAddress:
        """The address of the engine that serves that model of the manifest; answers at once, from memory.

        Raises Loading while it is pulled, started or restarted (the wish starts it; `state`, `progress` and `eta_s` say
        how far), NoBackend when it cannot run here (not in the manifest, no source reachable, file corrupt), with the reason.
        """
        ...
