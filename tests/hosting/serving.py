"""`llmaas serve` as a process, and the processes that it runs."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

from tests.fakes.raw_http import RawConnection, RawResponse, request_bytes
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0


def environment() -> dict[str, str]:
    """Without our settings, with our code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMAAS_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def write_models(data_dir: Path, **models: tuple[Path, str]) -> None:
    """A manifest of models by name: the file and the kind."""
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "models.toml").write_text(
        "".join(
            f'[[models]]\nname = "{name}"\nfile = "{name}.gguf"\ncontext = 1024\nkind = "{kind}"\n'
            f'[[models.sources]]\ntype = "file"\npath = "{file}"\n'
            for name, (file, kind) in models.items()
        )
    )


class Serving:
    """`children()` by name: `gateway`, `engines` and the engines of models, as (pid, …)."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.key = ""
        self.process: asyncio.subprocess.Process | None = None
        self._folder = data_dir.parent

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def out(self) -> str:
        return (self._folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text()

    async def start(
        self,
        *options: str,
        env: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
        terminal: int | None = None,
    ) -> None:
        """Begin; outputs are those of this start, unless they go to a terminal."""
        command = [
            *prefix,
            sys.executable,
            "-P",
            "-m",
            "llmaas",
            "serve",
            "--data-dir",
            str(self.data_dir),
            "--port",
            str(self.port),
        ]
        command += ["--engine-threads", "1", "--llama-server", "builtin", *options]
        with (self._folder / "out").open("wb") as out, (self._folder / "err").open("wb") as err:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL if terminal is None else terminal,
                stdout=out if terminal is None else terminal,
                stderr=err if terminal is None else terminal,
                env={**environment(), **(env or {})},
                start_new_session=True,
                preexec_fn=None if terminal is None else _take_terminal,
            )

    async def greeted(self) -> str:
        """What it prints when it is ready. Takes the key from there."""
        async with asyncio.timeout(DEADLINE_S):
            while "llmaas is ready" not in self.out or not self.out.endswith("\n"):
                assert self.process is not None
                assert self.process.returncode is None, self.err
                await asyncio.sleep(0.02)
            while not await self.answers():
                await asyncio.sleep(0.01)
        if found := re.search(r"API key   (\S+)", self.out):
            self.key = found[1]
        return self.out

    async def answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def ended(self) -> int:
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), DEADLINE_S)

    async def close(self) -> None:
        if self.process is None or self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), 15)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()

    def children(self) -> dict[str, int]:
        assert self.process is not None
        found: dict[str, int] = {}
        parents = {self.process.pid}
        listed = _processes()
        for _ in range(2):
            parents |= {pid for pid, parent, _ in listed if parent in parents}
        for pid, parent, words in listed:
            if parent in parents:
                if "--alias" in words:
                    found[words[words.index("--alias") + 1]] = pid
                found.update({name: pid for name in ("gateway", "engines") if name in words})
        return found

    def gateways(self) -> list[int]:
        """The gateway processes by their number, those that run."""
        assert self.process is not None
        found = {
            int(words[words.index("--number") + 1]): pid
            for pid, parent, words in _processes()
            if parent == self.process.pid and "gateway" in words and "--number" in words
        }
        return [found[number] for number in sorted(found)]

    async def child(self, name: str, other_than: int = 0) -> int:
        """The process of that name, as soon as there is one."""
        async with asyncio.timeout(DEADLINE_S):
            while (pid := self.children().get(name, other_than)) == other_than:
                await asyncio.sleep(0.02)
        return pid

    async def post(self, path: str, body: bytes) -> RawResponse:
        async with await RawConnection.open(self.url, timeout_s=20) as connection:
            await connection.send(self._request(path, body))
            return await connection.response(timeout_s=20)

    async def begin(self, path: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Ask, and leave what comes to the test."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(self._request(path, body))
        return reader, writer

    def _request(self, path: str, body: bytes) -> bytes:
        headers = [("authorization", f"Bearer {self.key}"), ("content-type", "application/json")]
        return request_bytes("POST", path, headers=headers, body=body)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _processes() -> list[tuple[int, int, list[str]]]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            found.append((int(entry.name), parent, (entry / "cmdline").read_text(errors="replace").split("\0")))
        except OSError:
            continue
    return found


async def gone(*pids: int) -> None:
    """Returns when none of these processes runs any more."""
    async with asyncio.timeout(DEADLINE_S):
        while any(_runs(pid) for pid in pids):
            await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
