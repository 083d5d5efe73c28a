"""What the product needs from outside, by role. Storage and state implement these; the composition picks the implementation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from llmaas.domain.access import Caller
from llmaas.domain.catalogue import Catalogue
from llmaas.domain.tiers import Tier
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

    @property
    def away(self) -> bool:
        """Whether the database takes no rows, so that they wait elsewhere."""
        ...


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where a running embedded engine listens (`http://127.0.0.1:PORT`, no path) and the key that it asks for."""

    base_url: str
    api_key: str


class Preparation(Struct, frozen=True):
    """Why an engine cannot answer yet: `pulling`, `starting`, `loading`, `backoff`; or that it cannot at all: `failed`.
    `progress` 0..1, None where it cannot be told.
    """

    state: str
    progress: float | None


class Launcher(Protocol):
    def ensure_ready(self, root: str) -> EngineAddress:
        """The address of the engine that serves that model of the manifest; answers at once, from memory.

        Raises Loading while it is pulled, started or restarted (the wish starts it; `state`, `progress` and `eta_s` say
        how far), NoBackend when it cannot run here (not in the manifest, no source reachable, file corrupt), with the reason.
        """
        ...

    def preparation(self, root: str) -> Preparation | None:
        """How far that engine is; None when it answers, or would be started by the first request. Starts nothing."""
        ...


class Claim(Struct, frozen=True, gc=False):
    """The most that a request may use; `cost_nano` at the price that it runs on."""

    input_tokens: int
    output_tokens: int
    cost_nano: int


class Used(Struct, frozen=True, gc=False):
    """What a request did use."""

    input_tokens: int
    output_tokens: int
    cost_nano: int


class Standing(Struct, frozen=True, gc=False):
    """How the tightest rates of a chain stand. `reset_*_s`: seconds until nothing of it is used. None: no such limit."""

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float | None = None


class Hold(Protocol):
    """What is reserved for one running request on every limit of its chain. It ends by itself when it gets too old."""

    @property
    def limited(self) -> bool:
        """False: the caller has no limits, so there is nothing to keep within."""
        ...

    @property
    def standing(self) -> Standing:
        """As it was when the hold was taken."""
        ...

    @property
    def held_nano(self) -> int: ...

    def extend(self, more: Claim) -> bool:
        """Reserve more from what is at hand; False: not without asking (`Limiter.extend`), and nothing was taken."""
        ...

    def settle(self, used: Used) -> None:
        """Exchange the reservation for what was used, which counts in the windows that it was taken from.

        The first call counts, also after the hold expired; further calls change nothing.
        """
        ...


class Limiter(Protocol):
    """All limits of a key and its project at once. A refusal takes nothing.

    Refusals are RateLimited or QuotaExceeded; they name the limit and whose it is, and carry the `standing`.
    `started_ms`: wall time that says which hour, day and month it belongs to, the same as on its usage row; None: now.
    """

    def try_hold(self, caller: Caller, tier: Tier | None, claim: Claim, started_ms: int | None = None) -> Hold | None:
        """Answer from memory. None: memory does not suffice, use `hold`."""
        ...

    async def hold(
        self, caller: Caller, tier: Tier | None, claim: Claim, started_ms: int | None = None, *, patient: bool = True
    ) -> Hold:
        """Like `try_hold`, and may ask the shared stores. Raises Unavailable when money cannot be asked about.

        `patient`: wait a little for what others may give back, before that is a refusal.
        """
        ...

    def room(
        self,
        caller: Caller,
        tier: Tier | None,
        claim: Callable[[int], Claim],
        least: int,
        most: int,
        started_ms: int | None = None,
    ) -> int:
        """The largest of `least` … `most` with whose claim a request could begin now, as far as this worker knows; 0: none."""
        ...

    async def extend(self, hold: Hold, more: Claim) -> bool:
        """False: a limit says no, and nothing was taken."""
        ...

    def room_for_more(self, hold: Hold, claim: Callable[[int], Claim], least: int, most: int) -> int:
        """Like `room`, on top of what the request holds."""
        ...


class UsageSums(Protocol):
    async def output_tokens_since(self, scope: str, from_ms: int) -> int:
        """Output and reasoning tokens of requests of `key:ID` or `project:ID` that started at or after `from_ms`."""
        ...


@dataclass(frozen=True, slots=True)
class BudgetStanding:
    """Over all workers."""

    spent_nano: int
    leased_nano: int


@dataclass(frozen=True, slots=True)
class BudgetWant:
    """`cap_nano` None: the cap is the project's credit. Wanted is `most_nano`; less than `least_nano` is of no use and is not given.

    `net_nano`: what this worker was ever granted of it less what it ever gave back, as the worker knows; None: it does not know.
    """

    budget_id: str
    cap_nano: int | None
    least_nano: int
    most_nano: int
    net_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """`remaining_nano`: what is left for anybody after this grant. `net_nano`: as in the next want, when this answer arrives."""

    granted_nano: int
    remaining_nano: int
    net_nano: int


class BudgetStore(Protocol):
    """Money of all workers: Σ spent + Σ leased ≤ cap, always. Raises Unavailable when the database does not answer."""

    async def standing(self, budget_ids: Sequence[str]) -> dict[str, BudgetStanding]:
        """One for each id, also for one that nothing was spent on."""
        ...

    async def take(self, wants: Sequence[BudgetWant]) -> list[Grant]:
        """Lease up to `most_nano` of each, or what there is; in one transaction, in the order of `wants`. A stated `net_nano`
        that is less than the store's gives the difference back: what the worker returned, or never heard that it was granted.
        """
        ...

    async def call_back(self, budget_ids: Sequence[str]) -> None:
        """Ask all workers to give back what they have leased of these and do not need, where they can be told at once."""
        ...

    async def credit_nano(self, project_id: str) -> int:
        """The sum of the project's credit entries."""
        ...
