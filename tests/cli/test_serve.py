"""`llmaas serve` as a program: what stops a start, what it prints, how it ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest

from llmaas import settings
from llmaas.datadir import Installation
from llmaas.domain import keys as keys_domain
from llmaas.domain.usage import UsageFilter, UsageRow
from llmaas.storage.spool import Spool
from tests.fakes.behaviour import Behaviour
from tests.fakes.upstream import FakeUpstream
from tests.gateway import fleet_of
from tests.hosting.serving import Serving, gone, write_models
from tests.postgres import PostgresServer, execute
from tests.schema import write_schema
from tests.storage.rows import rows
from tests.waiting import until


@pytest.fixture
async def serving(tmp_path: Path, tiny_model: Path) -> AsyncIterator[Serving]:
    one = Serving(tmp_path / "data")
    write_models(one.data_dir, tiny=(tiny_model, "chat"))
    yield one
    await one.close()


def errors(one: Serving) -> list[str]:
    return [line.removeprefix("llmaas: error: ") for line in one.err.splitlines() if line.startswith("llmaas: error: ")]


async def test_a_first_start_shows_its_secrets_once_and_stops_drain(serving: Serving) -> None:
    await serving.start("--default-model", "tiny")
    out = await serving.greeted()
    assert re.search(r"  API key   llmaas_\S+\n", out)
    assert re.search(r"sign in   admin@localhost\n  password  \S{12,}   \(one-time\)\n", out)
    assert out.count(serving.key) == 2
    assert f"curl {serving.url}/v1/chat/completions" in out
    assert '"model": "tiny"' in out
    pids = [await serving.child(name) for name in ("gateway", "engines", "tiny")]
    assert serving.process is not None
    os.killpg(serving.process.pid, signal.SIGINT)
    assert await serving.ended() == 0
    await gone(*pids)
    assert "Traceback" not in serving.err
    assert serving.key not in serving.err

    await serving.start("--default-model", "tiny")
    again = await serving.greeted()
    assert "models: tiny" in again
    assert "Shown once" not in again
    body = b'{"model": "tiny", "stream": true, "max_tokens": 600, "messages": [{"role": "user", "content": "x"}]}'
    async with asyncio.timeout(20):
        while (await serving.post("/v1/chat/completions", body.replace(b"600", b"1"))).status != 200:
            await asyncio.sleep(0.02)
    reader, writer = await serving.begin("/v1/chat/completions", body)
    begun = await asyncio.wait_for(reader.readuntil(b"data: "), 10)
    serving.process.send_signal(signal.SIGTERM)
    rest = await asyncio.wait_for(reader.read(), 20)
    assert b"data: [DONE]" in begun + rest
    writer.close()
    assert await serving.ended() == 0


async def test_a_second_signal_ends_answers_in_order_and_a_third_kills(serving: Serving) -> None:
    write_schema(serving.data_dir / "llmaas.db")
    loaded = settings.load({"data_dir": str(serving.data_dir)}, {})
    async with FakeUpstream() as upstream:
        installation = await Installation(loaded.settings).open()
        await installation.catalogue.apply(fleet_of(upstream.base_url, ["m"]), now_ms=0, prune=True)
        upstream.always(Behaviour(pause_at=(3,)))
        await serving.start()
        await serving.greeted()
        process, children = serving.process, serving.children()
        assert process is not None
        os.kill(children["engines"], signal.SIGSTOP)
        body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "x"}]}'
        reader, writer = await serving.begin("/v1/chat/completions", body)
        await upstream.wait_paused(1)
        process.send_signal(signal.SIGINT)
        await until(lambda: "draining" in serving.err, "it drains")
        process.send_signal(signal.SIGINT)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert b'"code":"draining"' in answer
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        (row,) = [row async for row in installation.usage.rows(UsageFilter())]
        assert (row.outcome, row.cost_nano) == ("interrupted", 0)
        await installation.close()
        await gone(children["gateway"])

        def killed() -> bool:
            if "processes_killed" in serving.err:
                return True
            process.send_signal(signal.SIGINT)  # those that come too quickly are one
            return False

        await until(killed, "one that hangs is killed")
        assert await serving.ended() == 130
        await gone(*children.values())


async def test_a_start_that_is_broken_off_has_shown_its_secrets(serving: Serving) -> None:
    await serving.start("--no-model")
    async with asyncio.timeout(20):
        while not keys(serving.data_dir):
            await asyncio.sleep(0.001)
    assert serving.process is not None
    serving.process.send_signal(signal.SIGTERM)
    assert await serving.ended() == 0
    assert "API key   llmaas_" in serving.out


def keys(data_dir: Path) -> int:
    try:
        with sqlite3.connect(f"file:{data_dir / 'llmaas.db'}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM keys").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


async def test_killed_it_takes_its_processes_along(serving: Serving) -> None:
    await serving.start("--default-model", "tiny")
    await serving.greeted()
    pids = [await serving.child(name) for name in ("gateway", "engines", "tiny")]
    assert serving.process is not None
    serving.process.kill()
    await serving.ended()
    await gone(*pids)


async def test_A23_a_process_that_cannot_be_started_is_tried_again(serving: Serving) -> None:
    await serving.start("--no-model")
    await serving.greeted()
    first, engines = serving.gateways()[0], await serving.child("engines")
    assert serving.process is not None
    supervisor = serving.process.pid
    files = len(list(Path(f"/proc/{supervisor}/fd").iterdir()))
    _, most = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (files - 4, most))
    os.kill(first, signal.SIGKILL)
    await until(lambda: "process_not_started" in serving.err, "it fails", 20)
    assert serving.process.returncode is None
    assert await serving.child("engines") == engines
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (most, most))
    await until(lambda: serving.gateways() not in ([], [first]), "a new process", 30)
    await gone(first)
    serving.process.terminate()
    assert await serving.ended() == 0


async def test_without_a_model_and_two_on_one_data_directory(serving: Serving) -> None:
    await serving.start("--no-model")
    assert "no models yet" in await serving.greeted()
    assert set(serving.children()) == {"gateway", "engines"}
    assert not (serving.data_dir / "models").exists()
    (serving.data_dir.parent / "second").mkdir()
    second = Serving(serving.data_dir.parent / "second" / "data")
    second.data_dir = serving.data_dir
    await second.start("--no-model")
    assert await second.ended() == 3
    assert serving.process is not None
    (error,) = errors(second)
    assert error.startswith(
        f"data_dir: another `llmaas serve` (process {serving.process.pid}) works on {serving.data_dir}; stop it"
    )
    assert await serving.answers()


async def test_every_reason_against_a_start_is_told(serving: Serving) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (serving.data_dir / "models.toml").write_text("[[models]]\nname = 'x'\n[[models]]\nfile = 'y'\n")
        await serving.start("--port", str(port), "--metrics-listen", f"127.0.0.1:{port}")
        assert await serving.ended() == 3
    told = errors(serving)
    address = f"can't listen on 127.0.0.1:{port}: Address already in use; free it, or set"
    assert told[:2] == [
        f"port: {address} --port or LLMAAS_PORT",
        f"metrics_listen: {address} --metrics-listen or LLMAAS_METRICS_LISTEN",
    ]
    assert len(told) == 4
    assert not (serving.data_dir / "llmaas.db").exists()


async def test_an_address_of_another_machine_is_told(serving: Serving) -> None:
    await serving.start("--host", "192.0.2.1")
    assert await serving.ended() == 3
    assert errors(serving)[0].startswith("host: can't listen on 192.0.2.1:")
    assert errors(serving)[0].endswith("; set --host or LLMAAS_HOST")


async def test_a_data_directory_that_cannot_be_written(serving: Serving) -> None:
    shutil.rmtree(serving.data_dir)
    serving.data_dir.write_bytes(b"")
    serving.data_dir /= "below"
    await serving.start()
    assert await serving.ended() == 3
    assert errors(serving) == [
        f"data_dir: {serving.data_dir} is not writable: Not a directory; set --data-dir or LLMAAS_DATA_DIR"
    ]


async def test_every_mistake_in_the_settings_is_told(serving: Serving) -> None:
    (serving.data_dir / "llmaas.toml").write_text('prot = 1\nlog_level = "loud"\n')
    await serving.start(
        "--drain-timeout-s",
        "-1",
        env={"LLMAAS_WORKER": "2", "LLMAAS_HUB_TOKEN": "s3cret", "LLMAAS_MAX_BODY_BYTES": "x"},
    )
    assert await serving.ended() == 3
    told = errors(serving)
    assert len(told) == 5
    for text in (
        "unknown setting `prot`",
        "log_level",
        "LLMAAS_WORKER: unknown setting",
        "LLMAAS_MAX_BODY_BYTES",
        "--drain-timeout-s",
    ):
        assert any(text in line for line in told), text
    assert "s3cret" not in serving.err


async def test_an_unknown_default_model_and_an_old_schema(serving: Serving) -> None:
    await serving.start("--default-model", "nothing")
    assert await serving.ended() == 3
    assert errors(serving) == [
        "default_model: `nothing` is not in the model manifest; set --default-model or --no-model"
    ]
    with sqlite3.connect(serving.data_dir / "llmaas.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '0000'")
    database.close()
    await serving.start("--no-model")
    assert await serving.ended() == 3
    assert len(errors(serving)) == 1
    assert "Traceback" not in serving.err


MASTER_KEY = base64.b64encode(b"k" * 32).decode()
NOWHERE = "valkey://127.0.0.1:1/0"


def shared(url: str, **more: str) -> dict[str, str]:
    """What several gateway processes need. Without Valkey they count for themselves."""
    return {"LLMAAS_DATABASE_URL": url, "LLMAAS_STATE_URL": NOWHERE, **more}


def connections(pid: int, opened: Collection[socket.socket]) -> int:
    """How many of these connections a process has taken."""
    callers = {one.getsockname()[1] for one in opened}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    established = {words[9] for words in lines if words[3] == "01" and int(words[2].partition(":")[2], 16) in callers}
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).removeprefix("socket:[").removesuffix("]") in established
    return count


async def models(serving: Serving) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
    writer.write(f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {serving.key}\r\n\r\n".encode())
    status = (await asyncio.wait_for(reader.readline(), 10)).split()
    writer.close()
    return int(status[1]) if status else 0


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side is gone."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.slow
async def test_F12_gateway_processes_share_the_port_and_one_that_is_killed_comes_back(
    serving: Serving, postgres_url: str
) -> None:
    await serving.start("--no-model", "--workers", "3", env=shared(postgres_url))
    await serving.greeted()
    first = serving.gateways()
    assert len(first) == 3
    with contextlib.ExitStack() as held:
        opened = [held.enter_context(socket.create_connection(("127.0.0.1", serving.port))) for _ in range(90)]

        def taken() -> list[int]:
            return [connections(pid, opened) for pid in first]

        await until(lambda: sum(taken()) == 90, "all connections are taken")
        assert min(taken()) >= 10, taken()
        seen = execute(postgres_url, "SELECT pid, catalogue_revision FROM workers ORDER BY pid")
        assert [tuple(row) for row in seen] == [(pid, 1) for pid in sorted(first)]

        its = taken()[1]
        os.kill(first[1], signal.SIGKILL)
        await gone(first[1])
        await until(lambda: sum(map(is_closed, opened)) == its, "only its own connections are cut")
        assert [await models(serving) for _ in range(12)] == [200] * 12

    def back() -> bool:
        now = serving.gateways()
        return len(now) == 3 and now[1] != first[1] and now[0] == first[0] and now[2] == first[2]

    await until(back, "a new process in its place", 60)
    last = serving.gateways()

    async def takes() -> bool:
        with socket.create_connection(("127.0.0.1", serving.port)) as one:
            await models(serving)
            return connections(last[1], [one]) == 1

    await until(takes, "it takes connections", 60)  # one that is stopped while it starts need not sign off
    new = f"SELECT id FROM workers WHERE pid = {last[1]}"
    assert len(execute(postgres_url, new)) == 1, "it has told of itself"
    assert serving.process is not None
    serving.process.terminate()
    assert await serving.ended() == 0
    await gone(*last)
    # One that stops later than the others may have forgotten them by then, the killed one too.
    listed = dict(map(tuple, execute(postgres_url, "SELECT pid, seen_ms FROM workers")))
    assert listed.keys() <= {first[1], *last}
    assert {seen_ms for pid, seen_ms in listed.items() if pid != first[1]} == {0}
    assert "Traceback" not in serving.err


@pytest.mark.slow
async def test_a_change_reaches_every_gateway_process_within_a_second(serving: Serving, postgres_url: str) -> None:
    environment = shared(postgres_url, LLMAAS_REFRESH_INTERVAL_S="1")
    await serving.start("--no-model", "--workers", "2", env=environment)
    await serving.greeted()
    assert {await models(serving) for _ in range(20)} == {200}
    kid = serving.key.split("_")[1]
    execute(
        postgres_url,
        f"UPDATE keys SET revoked_ms = 1 WHERE id = '{kid}'",
        "UPDATE revisions SET number = number + 1 WHERE name = 'keys'",
        "SELECT pg_notify('llmaas_changes', 'keys')",
    )

    async def refused() -> bool:
        return {await models(serving) for _ in range(20)} == {401}

    await until(refused, "no process takes the key", 1.0)


@pytest.mark.slow
async def test_F11_known_keys_go_on_without_postgresql_and_all_heals(
    serving: Serving, own_postgres: PostgresServer
) -> None:
    environment = shared(own_postgres.url(), LLMAAS_DATABASE_TIMEOUT_S="3")
    await serving.start("--no-model", env=environment)
    await serving.greeted()
    known = serving.key
    assert await models(serving) == 200
    own_postgres.stop()
    assert [await models(serving) for _ in range(5)] == [200] * 5
    serving.key = unknown_key()
    assert await models(serving) == 503
    own_postgres.start()
    own_postgres.freeze()
    try:
        serving.key = known
        assert await models(serving) == 200
        serving.key = unknown_key()
        begun_s = asyncio.get_running_loop().time()
        assert await models(serving) == 503
        assert asyncio.get_running_loop().time() - begun_s < 4
    finally:
        own_postgres.thaw()

    async def healed() -> bool:
        return await models(serving) == 401

    await until(healed, "unknown keys are looked up again")
    serving.key = known
    assert await models(serving) == 200


def unknown_key() -> str:
    return keys_domain.mint()[0]


async def test_several_processes_need_a_shared_database_and_shared_state(serving: Serving) -> None:
    await serving.start("--no-model", "--workers", "2")
    assert await serving.ended() == 3
    told = errors(serving)
    assert len(told) == 2
    assert "set database_url to postgresql://" in told[0]
    assert "set state_url to valkey://" in told[1]
    await serving.start("--no-model", env={"LLMAAS_DATABASE_URL": "mysql://x", "LLMAAS_MASTER_KEY": "c2hvcnQ="})
    assert await serving.ended() == 3
    assert [line.split(":")[0] for line in errors(serving)] == ["database_url", "master_key"]
    assert "c2hvcnQ" not in serving.err
    await serving.start("--no-model", env={"LLMAAS_DATABASE_URL": "sqlite:///nodir/llmaas.db"})
    assert await serving.ended() == 3
    assert "four slashes" in errors(serving)[0]


async def test_a_second_host_needs_the_master_key_of_the_first(serving: Serving, empty_postgres_url: str) -> None:
    await serving.start("--no-model", env=shared(empty_postgres_url, LLMAAS_MASTER_KEY=MASTER_KEY))
    await serving.greeted()
    assert not (serving.data_dir / "master.key").exists()
    second = Serving(serving.data_dir.parent / "second" / "data")
    write_models(second.data_dir)
    try:
        await second.start("--no-model", env=shared(empty_postgres_url))
        assert await second.ended() == 3
        assert [line for line in errors(second) if "LLMAAS_MASTER_KEY" in line] == errors(second) != []
        await second.start("--no-model", env=shared(empty_postgres_url, LLMAAS_MASTER_KEY=MASTER_KEY))
        assert "Shown once" not in await second.greeted()
        second.key = serving.key
        assert await models(second) == 200
    finally:
        await second.close()


async def test_rows_that_a_process_left_behind_are_adopted_when_there_are_fewer(serving: Serving) -> None:
    loaded = settings.load({"data_dir": str(serving.data_dir)}, {})
    await (await Installation(loaded.settings).open()).close()
    left: list[UsageRow] = rows(3)
    spool = Spool(serving.data_dir / "spool" / "5")
    spool.write(left)
    spool.close()
    await serving.start("--no-model")
    await serving.greeted()

    def stored() -> bool:
        with contextlib.closing(sqlite3.connect(serving.data_dir / "llmaas.db")) as database:
            found = [row[0] for row in database.execute("SELECT id FROM usage ORDER BY started_ms")]
        return found == [row.id for row in left]

    await until(stored, "the rows are in the database")
