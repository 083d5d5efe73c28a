"""A database with spoiled rows: what was revoked stops all the same, and what is sound goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from llmaas.datadir import Installation
from llmaas.domain.keys import Key
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of
from tests.waiting import until

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
WITHIN_S = 5.0


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    async with FakeUpstream() as upstream:
        running = GatewayProcess(tmp_path)
        await running.apply(fleet_of(upstream.base_url, ["m"]))
        await running.start()
        yield running
        await running.close()


@contextmanager
def written(gateway: GatewayProcess) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(gateway.data_dir / "llmaas.db", timeout=10, isolation_level=None)) as connection:
        yield connection


async def used_key(installation: Installation, gateway: GatewayProcess, name: str) -> tuple[str, Key]:
    token, key = await installation.create_key(project_id="default", name=name)
    assert (await gateway.post("/v1/chat/completions", CHAT, key=token)).status == 200
    return token, key


async def stops(gateway: GatewayProcess, token: str) -> None:
    async def refused() -> bool:
        return (await gateway.post("/v1/chat/completions", CHAT, key=token)).status == 401

    await until(refused, "the key stops", WITHIN_S)


@pytest.mark.parametrize("column", ["name", "secret_hash", "limits"])
async def test_A19_a_revoked_key_stops_beside_one_whose_row_is_spoiled(gateway: GatewayProcess, column: str) -> None:
    installation = await gateway.installation()
    revoked, spoiled, sound = [await used_key(installation, gateway, name) for name in ("a", "b", "c")]
    with written(gateway) as connection:
        statement = f"UPDATE keys SET {column} = CAST(x'42c328' AS TEXT) WHERE id = ?"
        connection.execute(statement, (spoiled[1].id,))
    await installation.keys.revoke(revoked[1].id, installation.clock.now_ms())
    await stops(gateway, revoked[0])
    if column != "name":
        await stops(gateway, spoiled[0])
    assert (await gateway.post("/v1/chat/completions", CHAT, key=sound[0])).status == 200
    assert (await gateway.get("/readyz")).status == 200


async def test_A19_a_revoked_key_stops_when_nobody_can_tell_what_changed(gateway: GatewayProcess) -> None:
    installation = await gateway.installation()
    (revoked, key), (sound, _) = [await used_key(installation, gateway, name) for name in ("a", "b")]
    with written(gateway) as connection:
        connection.execute("UPDATE revisions SET name = 'nobody' WHERE name = 'keys'")
        await installation.keys.revoke(key.id, installation.clock.now_ms())
        await stops(gateway, revoked)
        ready = await gateway.get("/readyz")
        assert (ready.status, ready.json()["status"]) == (503, "changes_unknown")
        assert (await gateway.post("/v1/chat/completions", CHAT, key=sound)).status == 200
        assert "turn_failed" in gateway.log
        connection.execute("UPDATE revisions SET name = 'keys' WHERE name = 'nobody'")

    async def ready_again() -> bool:
        return (await gateway.get("/readyz")).status == 200

    await until(ready_again, "changes are followed again")
    later, key = await used_key(installation, gateway, "c")
    await installation.keys.revoke(key.id, installation.clock.now_ms())
    await stops(gateway, later)
