"""The catalogue in SQL: loading snapshots, and changing the declared fleet in one transaction.

Prices are versions: an unchanged price keeps its version, a changed one is a new row, and no row is ever changed. Every
editor goes through `apply`: a change is checked as a whole, recorded thing by thing, and counted once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.addresses import AddressRules
from llmaas.domain.audit import SYSTEM, Act, Actor
from llmaas.domain.catalogue import Catalogue
from llmaas.domain.credentials import CredentialVariables, quoted
from llmaas.domain.declarations import describe_thing
from llmaas.domain.fleet import NOUNS, Change, Fleet, FleetState, Noun, Problem, changes, check, duplicates
from llmaas.domain.prices import PRICE_CLASSES, Price
from llmaas.errors import ConfigurationError, NotFound
from llmaas.storage.audit import record
from llmaas.storage.database import Database, again_when_cut, bump, upsert
from llmaas.storage.fleet_rows import TABLES, StoredFleet, read_fleet, rows_of
from llmaas.storage.tables import prices, projects, providers, revisions

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.catalogue")
_SHOWN_PROJECTS = 5


class SqlCatalogueStore:
    """`rules`: where backends may be; `variables`: where credentials may be. They are asked for what is declared; who connects or
    reads a credential asks again.
    """

    def __init__(
        self, database: Database, rules: AddressRules | None = None, variables: CredentialVariables | None = None
    ) -> None:
        self._database = database
        self._rules = rules or AddressRules()
        self._variables = variables or CredentialVariables()

    @again_when_cut
    async def load(self) -> Catalogue:
        async with self._database.connect() as connection:
            revision = await _revision(connection)
            stored = await read_fleet(connection, with_versions=True)
        for poisoned in stored.poisoned:
            _log.error("catalogue_row_skipped", row=poisoned.line)
        return Catalogue(
            revision=revision,
            models=stored.fleet.models,
            providers=stored.fleet.providers,
            backends=stored.fleet.backends,
            deployments=stored.fleet.deployments,
            tiers=stored.fleet.tiers,
            skipped=[poisoned.line for poisoned in stored.poisoned],
        )

    async def fleet(self) -> Fleet:
        return (await self.state()).fleet

    async def state(self) -> FleetState:
        async with self._database.connect() as connection:
            return await _state(connection, await read_fleet(connection, with_versions=False))

    async def apply(
        self,
        declared: Fleet,
        *,
        now_ms: int,
        prune: bool,
        dry_run: bool = False,
        remove: Iterable[tuple[Noun, str]] = (),
        by: Actor = SYSTEM,
        if_still: Callable[[FleetState], None] | None = None,
    ) -> list[Change]:
        async with self._database.begin() as connection:
            stored = await read_fleet(connection, with_versions=False)
            if if_still is not None:
                if_still(await _state(connection, stored))
            present = stored.fleet
            wanted = _keep_created(present, declared if prune else present.merged_with(declared), now_ms)
            for noun, thing_id in remove:
                wanted = wanted.without(noun, thing_id)
            todo = changes(present, wanted)
            problems: list[Problem] = [*duplicates(declared), *check(wanted)]
            refused = list(self.forbidden(present, wanted))
            more = await _tiers_in_use(connection, todo)
            if problems or refused or more:
                param = refused[0].keys[0] if refused else None
                raise ConfigurationError([*(p.message for p in [*problems, *refused]), *more], param=param)
            poisoned = [p for p in stored.poisoned if prune]
            if (todo or poisoned) and not dry_run:
                for row in poisoned:
                    await _delete(connection, row.noun, row.key)
                    await record(
                        connection, Act(by, f"{row.noun}.remove", row.noun, "@".join(map(str, row.key))), now_ms
                    )
                await _write(connection, stored, wanted, now_ms)
                await _record(connection, present, wanted, todo, by, now_ms)
                await bump(connection, "catalogue")
        return todo

    def forbidden(self, present: Fleet, wanted: Fleet) -> Iterator[Problem]:
        """Which addresses and variables the settings do not allow. Only of what is new or changed: rules that became stricter do not
        stand in the way of other changes.
        """
        touched = {(change.noun, change.id) for change in changes(present, wanted)}
        for index, backend in enumerate(wanted.backends):
            host = urlsplit(backend.base_url).hostname or ""
            if ("backend", backend.id) in touched and backend.base_url and (fault := self._rules.host_fault(host)):
                yield Problem("backend", index, f"backend `{backend.id}`: base_url {fault}", ("base_url",))
        for index, provider in enumerate(wanted.providers):
            named = provider.api_key_env
            if ("provider", provider.id) in touched and named and (fault := self._variables.fault(named)):
                message = f"provider `{provider.id}`: api_key_env {fault}{quoted(named)}"
                yield Problem("provider", index, message, ("api_key_env",))

    async def price_versions(self) -> dict[int, Price]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(sa.select(prices))).mappings().all()
        return {row["version"]: Price(**row) for row in rows}

    @again_when_cut
    async def sealed_secrets(self) -> dict[str, bytes]:
        """The stored credential of each provider that has one, still sealed."""
        query = sa.select(providers.c.id, providers.c.secret).where(providers.c.secret.is_not(None))
        async with self._database.connect() as connection:
            return {row.id: row.secret for row in await connection.execute(query)}

    async def set_secret(self, provider_id: str, sealed: bytes | None, *, by: Actor = SYSTEM) -> None:
        async with self._database.begin() as connection:
            change = sa.update(providers).where(providers.c.id == provider_id).values(secret=sealed)
            if (await connection.execute(change)).rowcount == 0:
                raise NotFound(f"There is no provider `{provider_id}`.", param="provider")
            action = "provider.forget-secret" if sealed is None else "provider.set-secret"
            await record(connection, Act(by, action, "provider", provider_id))
            await bump(connection, "catalogue")


async def _revision(connection: AsyncConnection) -> int:
    query = sa.select(revisions.c.number).where(revisions.c.name == "catalogue")
    revision: int = (await connection.execute(query)).scalar_one()
    return revision


async def _state(connection: AsyncConnection, stored: StoredFleet) -> FleetState:
    sealed = await connection.execute(sa.select(providers.c.id).where(providers.c.secret.is_not(None)))
    return FleetState(
        revision=await _revision(connection),
        fleet=stored.fleet,
        with_secret=frozenset(sealed.scalars()),
        skipped=tuple(poisoned.line for poisoned in stored.poisoned),
    )


def _keep_created(present: Fleet, wanted: Fleet, now_ms: int) -> Fleet:
    born = {m.id: m.created_ms for m in present.models}
    dated = tuple(dataclasses.replace(m, created_ms=born.get(m.id, now_ms)) for m in wanted.models)
    return dataclasses.replace(wanted, models=dated)


async def _tiers_in_use(connection: AsyncConnection, todo: Sequence[Change]) -> list[str]:
    """A removed tier would leave its projects without limits."""
    found = []
    for tier_id in (change.id for change in todo if change.action == "remove" and change.noun == "tier"):
        query = sa.select(projects.c.id).where(projects.c.tier_id == tier_id).order_by(projects.c.id)
        on_it = (await connection.execute(query.limit(_SHOWN_PROJECTS))).scalars().all()
        if on_it:
            found.append(f"tier `{tier_id}` has projects on it: {', '.join(on_it)}")
    return found


async def _write(connection: AsyncConnection, stored: StoredFleet, wanted: Fleet, now_ms: int) -> None:
    """Only what differs is written, in an order in which nothing dangles."""
    versions = await _write_prices(connection, stored, wanted, now_ms)
    before, after = rows_of(stored.fleet, stored.versions), rows_of(wanted, versions)
    for noun in NOUNS:
        written = [row for key, row in after[noun].items() if before[noun].get(key) != row]
        if written:
            await _put(connection, TABLES[noun], written)
    for noun in reversed(NOUNS):
        for key in before[noun].keys() - after[noun].keys():
            await _delete(connection, noun, key)


async def _put(connection: AsyncConnection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """Insert, or change all but the key; columns that a row does not name stay."""
    keys = [column.name for column in table.primary_key.columns]
    insert = upsert(connection, table)
    changed = {name: insert.excluded[name] for name in rows[0] if name not in keys}
    await connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=changed), rows)


async def _delete(connection: AsyncConnection, noun: Noun, key: tuple[Any, ...]) -> None:
    table = TABLES[noun]
    its = [column == value for column, value in zip(table.primary_key.columns, key, strict=True)]
    await connection.execute(sa.delete(table).where(*its))


async def _write_prices(
    connection: AsyncConnection, stored: StoredFleet, wanted: Fleet, now_ms: int
) -> dict[tuple[str, str | None], int]:
    """The version of each price, newly written where it is not the one that is in force."""
    present, versions = _priced(stored.fleet), {}
    for key, price in _priced(wanted).items():
        if present.get(key) == price:
            versions[key] = stored.versions[key]
            continue
        classes = {name: getattr(price, name) for name in PRICE_CLASSES}
        values = {"model_id": price.model_id, "tier_id": price.tier_id, "valid_from_ms": now_ms, **classes}
        inserted = await connection.execute(sa.insert(prices).values(values).returning(prices.c.version))
        versions[key] = inserted.scalar_one()
    return versions


def _priced(fleet: Fleet) -> Mapping[tuple[str, str | None], Price]:
    priced: dict[tuple[str, str | None], Price] = {(m.id, None): m.price for m in fleet.models if m.price is not None}
    priced.update({(price.model_id, tier.id): price for tier in fleet.tiers for price in tier.prices})
    return priced


async def _record(
    connection: AsyncConnection, present: Fleet, wanted: Fleet, todo: Sequence[Change], by: Actor, now_ms: int
) -> None:
    for change in todo:
        old, new = present.find(change.noun, change.id), wanted.find(change.noun, change.id)
        before, after = (None if thing is None else describe_thing(thing) for thing in (old, new))
        act = Act(by, f"{change.noun}.{change.action}", change.noun, change.id, None, before, after)
        await record(connection, act, now_ms)
