"""Guessing keys: what it costs us and what it brings."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from llmaas.clock import ManualClock
from llmaas.domain import keys
from llmaas.domain.access import Caller
from llmaas.domain.keys import Key
from llmaas.domain.projects import Project
from llmaas.errors import NotAllowed, NotAuthenticated, RateLimited, Unavailable
from llmaas.storage.database import Database
from llmaas.storage.keys import SqlKeyStore
from llmaas.storage.projects import SqlProjectStore
from llmaas.web.auth import Authenticator
from tests.schema import write_schema

PEPPER = bytes(range(32))
SIZE = 64


class CountingStore:
    """A real store, how often it was asked, and what happens once between its next reading and its answer. Implements
    `KeyStore`.
    """

    def __init__(self, store: SqlKeyStore) -> None:
        self.store = store
        self.asked = 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def callers(self, kids: Sequence[str]) -> dict[str, Caller]:
        self.asked += 1
        found = await self.store.callers(kids)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return found

    async def add(self, **fields: object) -> str:
        token, parts = keys.mint()
        key = Key(parts.kid, "default", "test", keys.hash_secret(parts, PEPPER), 0)
        await self.store.add(dataclasses.replace(key, **fields))  # type: ignore[arg-type]
        return token


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[CountingStore]:
    write_schema(tmp_path / "llmaas.db")
    database = Database(tmp_path / "llmaas.db")
    await SqlProjectStore(database).add(Project("default", "Default", 1))
    yield CountingStore(SqlKeyStore(database))
    await database.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def authenticator(store: CountingStore, clock: ManualClock) -> Authenticator:
    return Authenticator(store, PEPPER, clock, SIZE)


async def _refused(authenticator: Authenticator, token: str, address: str = "10.0.0.1") -> type[Exception]:
    with pytest.raises((NotAuthenticated, RateLimited)) as caught:
        await authenticator.caller(token, address)
    return caught.type


async def test_A09_guesses_with_a_wrong_checksum_touch_no_store(
    store: CountingStore, authenticator: Authenticator
) -> None:
    real = await store.add()
    await authenticator.caller(real, "10.0.0.1")
    asked = store.asked
    for number in range(100_000):
        guess = f"llmaas_{number:012d}_{number:040d}{number % 1_000_000:06d}"
        if keys.parse(guess) is None:
            assert await _refused(authenticator, guess) is NotAuthenticated
    assert store.asked == asked
    assert (await authenticator.caller(real, "10.0.0.1")).key.project_id == "default"


async def test_A09_guesses_with_a_right_checksum_are_limited_by_address(
    store: CountingStore, authenticator: Authenticator, clock: ManualClock
) -> None:
    real = await store.add()
    await authenticator.caller(real, "10.0.0.1")
    asked = store.asked
    guesses = [keys.mint()[0] for _ in range(2_000)]
    kinds = [await _refused(authenticator, guesses[number % 2_000]) for number in range(100_000)]
    assert store.asked - asked == 100
    assert kinds.count(RateLimited) > 90_000
    # The real key goes on from the same address, a new real one from another; later the address may try again.
    await authenticator.caller(real, "10.0.0.1")
    assert store.asked - asked == 100
    await authenticator.caller(await store.add(), "10.0.0.2")
    clock.advance(5)
    assert [await _refused(authenticator, keys.mint()[0]) for _ in range(11)].count(RateLimited) == 1


async def test_A09_ids_that_are_nobodys_are_remembered(store: CountingStore, authenticator: Authenticator) -> None:
    guess, _ = keys.mint()
    for _ in range(1_000):
        assert await _refused(authenticator, guess) is NotAuthenticated
    assert store.asked == 1


async def test_A09_a_known_id_with_a_wrong_secret_is_limited_too(
    store: CountingStore, authenticator: Authenticator
) -> None:
    real = await store.add()
    kid = real.split("_")[1]
    kinds = []
    for _ in range(1_000):
        body = f"llmaas_{kid}_{keys.mint()[0].split('_')[2][:40]}"
        kinds.append(await _refused(authenticator, body + keys._checksum(body)))  # noqa: SLF001 - forgers know it
    assert kinds.count(NotAuthenticated) == 100
    assert store.asked == 100


async def test_A21_guesses_of_an_ipv6_network_count_together(authenticator: Authenticator) -> None:
    kinds = [await _refused(authenticator, keys.mint()[0], f"2001:db8::{number:x}") for number in range(1, 131)]
    assert (kinds.count(NotAuthenticated), kinds.count(RateLimited)) == (100, 30)
    assert await _refused(authenticator, keys.mint()[0], "2001:db8:0:1::1") is NotAuthenticated


async def test_many_good_keys_of_one_address_get_in_at_once(store: CountingStore, clock: ManualClock) -> None:
    authenticator = Authenticator(store, PEPPER, clock, 1_000)
    tokens = [await store.add() for _ in range(150)]
    callers = await asyncio.gather(*(authenticator.caller(token, "10.0.0.1") for token in tokens))
    assert len({caller.key.id for caller in callers}) == 150


async def test_a_store_that_is_away_makes_no_guess_of_a_good_key(
    store: CountingStore, authenticator: Authenticator
) -> None:
    token = await store.add()

    async def away() -> None:
        raise Unavailable("The database does not answer.")

    for _ in range(150):
        store.meanwhile = away
        with pytest.raises(Unavailable):
            await authenticator.caller(token, "10.0.0.1")
    assert (await authenticator.caller(token, "10.0.0.1")).key.project_id == "default"


async def test_A01_the_cache_is_bounded(store: CountingStore, authenticator: Authenticator) -> None:
    tokens = [await store.add() for _ in range(SIZE + 10)]
    for token in tokens:
        await authenticator.caller(token, "10.0.0.1")
    asked = store.asked
    for token in tokens[-SIZE:]:
        await authenticator.caller(token, "10.0.0.1")
    assert store.asked == asked
    await authenticator.caller(tokens[0], "10.0.0.1")
    assert store.asked == asked + 1


async def test_A01_the_clock_alone_ends_a_cached_key(
    store: CountingStore, authenticator: Authenticator, clock: ManualClock
) -> None:
    expiring = await store.add(expires_ms=clock.now_ms() + 1_000)
    rotated = await store.add(revoked_ms=clock.now_ms() + 2_000)
    for token in (expiring, rotated):
        await authenticator.caller(token, "10.0.0.1")
    clock.advance(1)
    assert await _refused(authenticator, expiring) is NotAuthenticated
    await authenticator.caller(rotated, "10.0.0.1")
    clock.advance(1)
    assert await _refused(authenticator, rotated) is NotAuthenticated


async def test_A01_a_refresh_keeps_what_is_good(
    store: CountingStore, authenticator: Authenticator, clock: ManualClock
) -> None:
    kept, stopped = await store.add(), await store.add()
    for token in (kept, stopped):
        await authenticator.caller(token, "10.0.0.1")
    await store.store.revoke(stopped.split("_")[1], clock.now_ms())
    await authenticator.refresh()
    asked = store.asked
    await authenticator.caller(kept, "10.0.0.1")
    assert await _refused(authenticator, stopped) is NotAuthenticated
    assert store.asked == asked


async def test_A01_a_look_up_that_a_revocation_overtakes_finds_it(
    store: CountingStore, authenticator: Authenticator, clock: ManualClock
) -> None:
    token = await store.add()

    async def revoke() -> None:
        await store.store.revoke(token.split("_")[1], clock.now_ms())
        await authenticator.refresh()

    store.meanwhile = revoke
    assert await _refused(authenticator, token) is NotAuthenticated
    assert await _refused(authenticator, token) is NotAuthenticated


async def test_a_look_up_that_a_new_key_overtakes_finds_it(store: CountingStore, authenticator: Authenticator) -> None:
    token, parts = keys.mint()

    async def make() -> None:
        await store.store.add(Key(parts.kid, "default", "test", keys.hash_secret(parts, PEPPER), 0))
        await authenticator.refresh()

    store.meanwhile = make
    assert (await authenticator.caller(token, "10.0.0.1")).key.id == parts.kid


@pytest.mark.parametrize("token", ["", "\x00", "é" * 66, "llmaas__", "llmaas_" + "a" * 59, "\r\n" * 33])
async def test_tokens_of_no_form_are_refused(authenticator: Authenticator, store: CountingStore, token: str) -> None:
    assert await _refused(authenticator, token) is NotAuthenticated
    assert store.asked == 0


async def test_a_key_works_from_its_networks_only(store: CountingStore, authenticator: Authenticator) -> None:
    token = await store.add(networks=("10.0.0.0/8", "2001:db8::/32"))
    for address in ("10.1.2.3", "2001:db8::1", "::ffff:10.0.0.1"):
        assert (await authenticator.caller(token, address)).key.networks
    for address in ("11.0.0.1", "", "localhost", "2001:db9::1"):
        with pytest.raises(NotAllowed):
            await authenticator.caller(token, address)
