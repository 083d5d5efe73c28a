"""Running the command line: within this process for breadth, as a real program where the process itself matters."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmaas.cli.program import run
from tests.cli.peer import Peer
from tests.cli.running import Cli, Start

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that nobody has used yet. Copying it saves each test the making of a schema."""
    folder = tmp_path_factory.mktemp("fresh") / "data"
    assert run(["--data-dir", str(folder), "projects", "list", "--json"]) == 0
    return folder


@pytest.fixture
def llmaas(fresh: Path, data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    for name in [name for name in os.environ if name.startswith("LLMAAS_")]:
        monkeypatch.delenv(name)
    shutil.copytree(fresh, data_dir)
    return Cli(data_dir, capsys, monkeypatch)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """For programs: none of our settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMAAS_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "TERM": "xterm"}


def _heed_interrupts() -> None:
    """A run in a shell's background hands down an ignored SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start(environment: dict[str, str], data_dir: Path) -> Iterator[Start]:
    """Starts the real program; what still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def _start(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            [sys.executable, "-m", "llmaas", *arguments],
            env={**environment, "LLMAAS_DATA_DIR": str(data_dir), **(env or {})},
            text=True,
            preexec_fn=_heed_interrupts,  # noqa: PLW1509 - nothing else runs between fork and exec
            **{**pipes, **options},
        )
        running.append(process)
        return process

    yield _start
    for process in running:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as running:
        yield running
