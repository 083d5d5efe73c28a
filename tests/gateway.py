"""A real gateway process on a free port with a data directory of its own, and its installation as seen from the outside."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from llmaas import settings
from llmaas.datadir import Installation
from llmaas.domain.fleet import Fleet
from llmaas.domain.keys import Permission
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.usage import UsageFilter, UsageRow
from tests.fakes.raw_http import RawConnection, RawResponse
from tests.ports import free_port
from tests.schema import write_schema

ROOT = Path(__file__).parents[1]
STARTUP_S = 30.0


class GatewayProcess:
    """`environment` adds settings (`LLMAAS_…`); `prefix` runs the process under a program such as strace."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.key = ""
        self.process: asyncio.subprocess.Process | None = None
        self._installation: Installation | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the process wrote to stderr so far."""
        path = self.data_dir / "gateway.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def installation(self) -> Installation:
        """The same data directory, opened by the test as another process would."""
        if self._installation is None:
            if not (self.data_dir / "llmaas.db").exists():
                write_schema(self.data_dir / "llmaas.db")
            loaded = settings.load({"data_dir": str(self.data_dir)}, {})
            self._installation = await Installation(loaded.settings).open()
        return self._installation

    async def apply(self, fleet: Fleet) -> None:
        installation = await self.installation()
        await installation.catalogue.apply(fleet, now_ms=installation.clock.now_ms(), prune=True)

    async def create_key(
        self,
        *,
        allowed_models: Sequence[str] = (),
        permissions: Sequence[Permission] = (Permission.INFERENCE_USE,),
        expires_ms: int | None = None,
    ) -> str:
        installation = await self.installation()
        token, _ = await installation.create_key(
            project_id="default",
            name="test",
            expires_ms=expires_ms,
            allowed_models=frozenset(allowed_models),
            permissions=frozenset(permissions),
        )
        return token

    async def start(self, environment: Mapping[str, str] | None = None, prefix: Sequence[str] = ()) -> None:
        """Returns when requests are taken. A first key is in `key`."""
        if not self.key:
            self.key = await self.create_key()
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LLMAAS_")}
        read_fd, write_fd = os.pipe()
        command = [*prefix, sys.executable, "-P", "-m", "llmaas", "gateway", "--ready-fd", str(write_fd)]
        with (self.data_dir / "gateway.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                pass_fds=(write_fd,),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={
                    **kept,
                    "PYTHONPATH": str(ROOT),
                    "LLMAAS_DATA_DIR": str(self.data_dir),
                    "LLMAAS_PORT": str(self.port),
                    "LLMAAS_LOG_FORMAT": "json",
                    **(environment or {}),
                },
            )
        os.close(write_fd)
        ready = await asyncio.wait_for(asyncio.to_thread(os.read, read_fd, 1), STARTUP_S)
        os.close(read_fd)
        assert ready, f"the gateway did not start:\n{self.log}"
        async with asyncio.timeout(STARTUP_S):
            while not await self._answers():
                await asyncio.sleep(0.01)

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def terminate(self) -> int:
        """SIGTERM, then the exit code."""
        assert self.process is not None
        self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), 60)

    async def kill(self) -> None:
        """SIGKILL to the whole process group."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            await self.kill()
        if self._installation is not None:
            await self._installation.close()

    async def rows(self) -> list[UsageRow]:
        """Every usage row in the database, newest first."""
        installation = await self.installation()
        return [row async for row in installation.usage.rows(UsageFilter())]

    async def wait_rows(self, count: int) -> list[UsageRow]:
        """The rows, as soon as there are so many."""
        async with asyncio.timeout(10):
            while len(rows := await self.rows()) < count:
                await asyncio.sleep(0.01)
        return rows

    async def ledger_faults(self) -> list[str]:
        installation = await self.installation()
        prices = await installation.catalogue.price_versions()
        return [fault async for fault in installation.usage.faults(prices)]

    async def post(
        self, path: str, body: Any, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> RawResponse:
        """One request on a connection of its own; `body` as JSON, or as it is when bytes. `key` empty: none is sent."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        token = self.key if key is None else key
        lines = {"host": f"127.0.0.1:{self.port}", "content-type": "application/json", "content-length": str(len(data))}
        if token:
            lines["authorization"] = f"Bearer {token}"
        return await self._send("POST", path, {**lines, **(headers or {})}, data)

    async def get(self, path: str, *, key: str | None = None, headers: Mapping[str, str] | None = None) -> RawResponse:
        token = self.key if key is None else key
        lines = {"host": f"127.0.0.1:{self.port}"}
        if token:
            lines["authorization"] = f"Bearer {token}"
        return await self._send("GET", path, {**lines, **(headers or {})}, b"")

    async def _send(self, method: str, path: str, headers: Mapping[str, str], data: bytes) -> RawResponse:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        async with await RawConnection.open(self.url) as connection:
            await connection.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
            return await connection.response(head=method == "HEAD")


def fleet_of(
    url: str,
    models: Sequence[str],
    *,
    kind: ProviderKind = ProviderKind.OPENAI,
    cancel_stops_billing: bool = True,
    more_urls: Sequence[str] = (),
    **model_fields: Any,
) -> Fleet:
    """Each model under its own name on the server at `url`, and on those at `more_urls` too."""
    urls = [url, *more_urls]
    return Fleet(
        providers=(Provider("fake", kind, cancel_stops_billing=cancel_stops_billing),),
        backends=tuple(Backend(f"ma{n:02}", "fake", base, f"ma{n:02}", str(kind)) for n, base in enumerate(urls, 1)),
        models=tuple(Model(**{"id": name, "kind": ModelKind.CHAT, "created_ms": 0, **model_fields}) for name in models),
        deployments=tuple(Deployment(name, f"ma{n:02}", name) for name in models for n, _ in enumerate(urls, 1)),
    )
