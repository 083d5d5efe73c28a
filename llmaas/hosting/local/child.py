"""The operating system's side of one engine: its command line, its log, its end. What to do about an end is `process.py`'s."""

from __future__ import annotations

import asyncio
import collections
import ctypes
import functools
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from llmaas.hosting.models.manifest import ModelSpec
from llmaas.pulse import ENGINE_END
from llmaas.settings import engine_environment

_KILL_AFTER_S = 5.0
_LOG_BYTES = 4 * 1024 * 1024
_PR_SET_PDEATHSIG = 1
_LIBC: Final = ctypes.CDLL(None)  # looked up here: between fork and exec nothing may load a library

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.hosting")


def engine_command(llama_server: str) -> list[str]:
    """From the setting `llama_server`: `builtin`, a path, or `auto`, which takes the one on PATH."""
    if llama_server not in {"auto", "builtin"}:
        return [llama_server]
    found = shutil.which("llama-server") if llama_server == "auto" else None
    return [found] if found else [sys.executable, "-P", "-m", "llmaas.hosting.local.llama_server"]


def engine_words(spec: ModelSpec, path: Path, *, port: int, parallel: int, threads: int) -> list[str]:
    """The options, in the words of `llama-server`. No prompt and no key is ever among them."""
    words = ["--model", str(path), "--alias", spec.name, "--host", "127.0.0.1", "--port", str(port)]
    # llama.cpp divides its context among its slots, and each request is promised the whole window.
    words += ["--ctx-size", str(spec.context * parallel), "--parallel", str(parallel)]
    # An open stream holds one of these threads; with its default of a few more than slots, waiting callers would keep
    # the engine from answering the question whether it is well.
    words += ["--threads-http", "512"]
    words += ["--jinja", "--slots", "--no-webui", "--no-context-shift"]
    if threads:
        words += ["--threads", str(threads)]
    if spec.kind == "embedding":
        # A text is embedded in one batch, so the batch is as large as the window.
        words += ["--embeddings", "--batch-size", str(spec.context), "--ubatch-size", str(spec.context)]
    return words


class EngineChild:
    """`ended` is done when the process is; `pid` names it."""

    def __init__(self, process: asyncio.subprocess.Process, log_path: Path) -> None:
        self._process = process
        self._complaints: collections.deque[str] = collections.deque(maxlen=50)
        self.pid = process.pid
        loop = asyncio.get_running_loop()
        self.ended = loop.create_task(process.wait())
        self._reading = loop.create_task(self._keep_log(log_path))

    @classmethod
    async def start(cls, command: Sequence[str], api_key: str, log_path: Path) -> EngineChild:
        """Raises OSError when the program can't be run."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=engine_environment(api_key),
            start_new_session=True,
            preexec_fn=functools.partial(_die_with_parent, os.getpid()),
        )
        return cls(process, log_path)

    async def end(self, *, at_once: bool = False) -> None:
        """Stop it, if it still runs, and wait until its log is complete."""
        if not self.ended.done():
            if at_once:
                self._process.kill()
            else:
                for number in (ENGINE_END, signal.SIGTERM):
                    self._process.send_signal(number)
            await asyncio.wait({self.ended}, timeout=_KILL_AFTER_S)
            if not self.ended.done():
                self._process.kill()
        await self.ended
        # Whoever else holds the pipe, such as a process that a wrong program left behind, is not waited for.
        await asyncio.wait({self._reading}, timeout=1)
        self._reading.cancel()

    def why(self) -> str:
        """How it ended, and its first complaint."""
        code = self.ended.result()
        how = f"code {code}"
        if code < 0:
            how = f"signal {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"signal {-code}"
        if code == -signal.SIGKILL:
            how += " (out of memory?)"
        first = self._complaints[0][:300] if self._complaints else ""
        return f"the engine ended with {how}. {first}".strip()

    async def _keep_log(self, path: Path) -> None:
        """The engine's own words go to a file that is turned over when it is full. They are read to the end even when
        the disk takes no more, because an engine whose pipe is full stands still.
        """
        stream = self._process.stdout
        assert stream is not None  # noqa: S101 - asked for at the start
        rest = b""
        writable = True
        while chunk := await stream.read(64 * 1024):
            *lines, rest = (rest + chunk).split(b"\n")
            self._complaints.extend(text for line in lines if (text := _complaint(line)))
            rest = rest[-4096:]
            if writable:
                try:
                    _append(path, chunk)
                except OSError as error:
                    writable = False
                    _log.error("engine_log_not_writable", path=str(path), reason=str(error))


def _append(path: Path, chunk: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("ab") as file:
        if file.tell() + len(chunk) > _LOG_BYTES:
            file.truncate(0)
        file.write(chunk)


def _complaint(line: bytes) -> str:
    """The text of a line in which llama.cpp complains, else empty. Its lines are `TIME LEVEL text`, in older ones `text`."""
    text = line.decode("utf-8", "replace").strip()
    words = text.split(" ", 2)
    if len(words) == 3 and words[1] == "E":
        return words[2]
    return text if "error" in text.lower() or "no such file" in text.lower() else ""


def _die_with_parent(parent: int) -> None:
    """Linux: an engine does not outlive the host that owns it."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
