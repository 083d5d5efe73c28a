"""`llmaas serve`: the supervisor, and the two kinds of processes that it runs (`gateway`, `engines`: not for people).

Gateway processes share the port: each has a socket of its own on it, its door, and the kernel deals out the connections. The
supervisor makes the doors and keeps them, so what waits at one outlives the process behind it.

The supervisor owns no request and no engine: it starts the processes, starts them again when they die or stand still, and
stops them in order. Either kind can die without the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import uvloop
from rich.console import Console

from llmaas import log
from llmaas.cli import INTERRUPTED
from llmaas.cli.watch import LOOK_S, Watch
from llmaas.datadir import FirstStart, Installation, adopt_spools, check_manifest, gateways_left
from llmaas.errors import ConfigurationError
from llmaas.net.loop import Loop
from llmaas.net.server import listen
from llmaas.pulse import STOPS, ignore_stops
from llmaas.settings import Loaded, Settings, engine_host_environment, gateway_environment
from llmaas.tasks import for_ever
from llmaas.worker import serve_engines, serve_gateway

_BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_STABLE_S = 60.0
_GIVE_UP_AFTER = 3
_KILL_AFTER_S = 10.0
_FROZEN_LOOKS = 6
_FROZEN_ENGINES_LOOKS = 20
"""More patience with the engine host: its engines, which answer without it, die with it."""
_SHUT_AFTER_S = 1.0
_HEARD_BYTES = 4096
_PR_SET_PDEATHSIG = 1
_LIBC: Final = ctypes.CDLL(None)  # looked up here: between fork and exec nothing may load a library

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.supervisor")


def gateway(loaded: Loaded, ready_fd: int | None, number: int, door_fds: Sequence[int]) -> None:
    """Run one gateway process until SIGTERM; its pulse goes to `ready_fd` when it takes requests."""
    settings = loaded.settings
    log.configure(settings.log_level, settings.log_format, process=_gateway_name(settings, number))
    doors = [socket.socket(fileno=fd) for fd in door_fds]
    for door in doors:
        door.set_inheritable(False)
    uvloop.run(serve_gateway(loaded, ready_fd, number, doors), loop_factory=Loop)


def engines(settings: Settings, preload: Sequence[str], ready_fd: int | None) -> None:
    """Run the engine host until SIGTERM."""
    log.configure(settings.log_level, settings.log_format, process="engines")
    uvloop.run(serve_engines(settings, preload, ready_fd), loop_factory=Loop)


def _gateway_name(settings: Settings, number: int) -> str:
    return "gateway" if settings.workers == 1 else f"gateway-{number}"


@dataclass(slots=True)
class _Child:
    name: str
    command: list[str]
    frozen_looks: int = _FROZEN_LOOKS
    environment: Mapping[str, str] | None = None
    doors: Sequence[socket.socket] = ()
    failures: int = 0
    was_ready: bool = False
    process: asyncio.subprocess.Process | None = None
    watch: Watch | None = None


class Supervisor:
    def __init__(self, settings: Settings, arguments: Sequence[str], doors: Sequence[socket.socket]) -> None:
        """`arguments`: the options, as given, that the children need to come to the same settings. `doors`: a bound socket for
        each gateway process.
        """
        program = [sys.executable, "-P", "-m", "llmaas"]
        self._settings = settings
        self._doors = doors
        held = [word for door in doors for word in ("--door", str(door.fileno()))]
        self._gateways = [
            _Child(
                _gateway_name(settings, number),
                [*program, "gateway", *arguments, "--number", str(number), *held],
                environment=gateway_environment(settings),
                doors=doors,
            )
            for number in range(settings.workers)
        ]
        # It knows nothing of what several gateway processes share, and gets none of the secrets for that.
        words = [*program, "engines", *arguments, "--workers", "1"]
        self._engines = _Child("engines", words, _FROZEN_ENGINES_LOOKS, engine_host_environment())
        self._stopping = asyncio.Event()
        self._hurried = False
        self._killed = False
        self._ready = asyncio.Event()

    def heed_signals(self) -> None:
        """From now on the signals of `STOPS` end `run`, also before it begins."""
        self._on_stops(self._stopping.set)

    async def run(self, preload: Sequence[str]) -> int:
        """Until a signal says to stop. 0 after an orderly stop, also a hurried one; else the code with which a gateway refused to
        run, or that of an interruption. `preload`: the embedded models that are started with the service.
        """
        loop = asyncio.get_running_loop()
        self._engines.command += [word for model in preload for word in ("--preload", model)]
        engines = loop.create_task(self._keep(self._engines))
        gateways = [loop.create_task(self._keep(child)) for child in self._gateways]
        stop, watching = loop.create_task(self._stopping.wait()), loop.create_task(for_ever(self._watch, name="watch"))
        await asyncio.wait({stop, *gateways, engines}, return_when=asyncio.FIRST_COMPLETED)
        self._stopping.set()
        self._on_stops(self._hurry)
        limit_s = self._settings.drain_timeout_s + _KILL_AFTER_S
        await asyncio.gather(*(self._stop(child, limit_s) for child in self._gateways))
        codes = await asyncio.gather(*gateways)
        self._shut_doors()
        await self._stop(self._engines, limit_s)
        await engines
        stop.cancel()
        watching.cancel()
        ignore_stops()
        _log.info("stopped")
        return INTERRUPTED if self._killed else max(codes)

    async def wait_ready(self) -> None:
        await self._ready.wait()

    async def _keep(self, child: _Child) -> int:
        """Start a process again whenever it ends, until we stop. Returns early, with its code, when a gateway that has never been
        ready finds its settings wrong or does not come up: one that has been ready has right settings, and what keeps it from
        starting now, such as a database that is away, passes.
        """
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started_s = loop.time()
            code: int | None = None
            try:
                code = await self._run_once(child)
            except Exception as error:  # noqa: BLE001 - no descriptors, processes or memory: that passes, and the others go on
                _log.error("process_not_started", name=child.name, error=str(error) or type(error).__name__)
            if self._stopping.is_set():
                break
            child.failures = 0 if loop.time() - started_s > _STABLE_S else child.failures + 1
            alone = all(gateway.process is None for gateway in self._gateways)
            hopeless = code == ConfigurationError.EXIT_CODE or (
                child.failures >= _GIVE_UP_AFTER and (code is not None or alone)
            )
            if hopeless and not child.was_ready and child is not self._engines:
                return code or 1
            wait_s = _BACKOFF_S[min(child.failures, len(_BACKOFF_S)) - 1] if child.failures else 0.0
            _log.error("process_ended", name=child.name, code=code, restart_in_s=wait_s)
            if wait_s > _SHUT_AFTER_S and alone:
                self._shut_doors()
            try:
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            except TimeoutError:
                continue
        return 0

    async def _run_once(self, child: _Child) -> int:
        read_fd, write_fd = os.pipe()
        os.set_inheritable(write_fd, True)
        command = [*child.command, "--ready-fd", str(write_fd)]
        try:
            child.process = await asyncio.create_subprocess_exec(
                *command,
                pass_fds=(write_fd, *(door.fileno() for door in child.doors)),
                env=child.environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        loop = asyncio.get_running_loop()
        try:
            child.watch = Watch(child.process.pid, child.frozen_looks)
            if self._stopping.is_set():  # it was too late to be told
                child.process.terminate()
            loop.add_reader(read_fd, self._heard, child, child.watch, read_fd)
            return await child.process.wait()
        except Exception:
            child.process.kill()  # nobody would watch it
            raise
        finally:
            loop.remove_reader(read_fd)
            os.close(read_fd)
            child.process = child.watch = None

    def _heard(self, child: _Child, watch: Watch, read_fd: int) -> None:
        beats = os.read(read_fd, _HEARD_BYTES)
        watch.heard(beats)
        if not beats:
            asyncio.get_running_loop().remove_reader(read_fd)
            return
        child.was_ready = True
        if all(gateway.was_ready for gateway in self._gateways):
            self._ready.set()

    async def _watch(self) -> None:
        """Kill what stands still; `_keep` starts it again."""
        loop = asyncio.get_running_loop()
        since_s = loop.time()
        await asyncio.sleep(LOOK_S)
        # We were stopped or starved, and they may have been with us.
        late = loop.time() - since_s > 2 * LOOK_S
        for child in (*self._gateways, self._engines):
            if child.watch is None or child.process is None:
                continue
            if late:
                child.watch.doubt()
            elif reason := child.watch.look():
                child.watch = None
                child.process.kill()
                _log.error("process_frozen", name=child.name, reason=reason, hint="it is killed and started again")

    def _shut_doors(self) -> None:
        """With nobody behind them for a while, callers had better hear so at once. Who listens opens a door again."""
        for door in self._doors:
            with contextlib.suppress(OSError):  # it may be shut
                door.shutdown(socket.SHUT_RD)

    @staticmethod
    def _on_stops(act: Callable[[], None]) -> None:
        for number in STOPS:
            # Whoever starts a program with `nohup` wants it to outlive the terminal.
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            asyncio.get_running_loop().add_signal_handler(number, act)

    async def _stop(self, child: _Child, limit_s: float) -> None:
        process = child.process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        if child.watch is not None:
            child.watch.hasten(_FROZEN_LOOKS)
        try:
            await asyncio.wait_for(process.wait(), limit_s)
        except TimeoutError:
            _log.error("process_killed", name=child.name)
            process.kill()

    def _hurry(self) -> None:
        """The second signal ends the answers that are under way, the third kills what is still there."""
        self._killed, self._hurried = self._hurried, True
        if self._killed:
            _log.warning("processes_killed", hint="what was not recorded by now is in no row")
        else:
            _log.warning("hurrying", hint="answers under way are ended; stop again to kill what is still there")
        for child in (*self._gateways, self._engines) if self._killed else self._gateways:
            if child.process is not None:
                child.process.send_signal(signal.SIGKILL if self._killed else signal.SIGINT)


def _die_with_parent() -> None:
    """Linux: a supervisor that is killed takes its processes along, in an orderly way."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def check_port(settings: Settings, *, ending: bool = False) -> None:
    """Raises ConfigurationError when an address can't be listened on. `ending`: gateways of a start before are still there."""
    addresses = [("port", settings.host, settings.port)]
    if settings.metrics_listen:
        host, _, port = settings.metrics_listen.rpartition(":")
        addresses += [("metrics_listen", host, int(port) + number) for number in range(settings.workers)]
    problems = []
    for setting, host, port_number in addresses:
        try:
            family = socket.getaddrinfo(host, port_number, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port_number))
        except OSError as error:
            wrong = setting
            if setting == "port" and error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                wrong = "host"
            remedy = f"set --{wrong.replace('_', '-')} or LLMAAS_{wrong.upper()}"
            if error.errno == errno.EADDRINUSE and ending:
                limit_s = settings.drain_timeout_s + _KILL_AFTER_S
                remedy = f"a previous `llmaas serve` of this data directory is still ending; wait up to {limit_s:g} s, or {remedy}"
            elif error.errno == errno.EADDRINUSE:
                remedy = f"free it, or {remedy}"
            problems.append(f"{wrong}: can't listen on {host}:{port_number}: {error.strerror}; {remedy}")
    if problems:
        raise ConfigurationError(problems)


@contextlib.contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Raises ConfigurationError when the data directory is another `serve`'s or can't be written to."""
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = (folder / "serve.lock").open("a+")
    except OSError as error:
        problem = f"data_dir: {folder} is not writable: {error.strerror}; set --data-dir or LLMAAS_DATA_DIR"
        raise ConfigurationError([problem]) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            other = handle.read().strip()
            problem = f"data_dir: another `llmaas serve` (process {other}) works on {folder}"
            raise ConfigurationError([f"{problem}; stop it, or set --data-dir or LLMAAS_DATA_DIR"]) from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


def serve(settings: Settings, arguments: Sequence[str]) -> int:
    """Everything that `llmaas serve` does; gives the exit code. Raises ConfigurationError with all that stands against a
    start.
    """
    log.configure(settings.log_level, settings.log_format, process="supervisor")
    with contextlib.ExitStack() as held:
        problems: list[str] = []
        checks: list[Callable[[], None]] = [
            lambda: held.enter_context(only_one(settings)),
            # Who works on the data directory beside another supervisor belongs to that one, and was told of.
            lambda: check_port(settings, ending=not problems and gateways_left(settings)),
            lambda: check_manifest(settings),
        ]
        for check in checks:
            try:
                check()
            except ConfigurationError as error:
                problems += error.problems
        if problems:
            raise ConfigurationError(problems)
        doors = [held.enter_context(listen(settings.host, settings.port)) for _ in range(settings.workers)]
        return uvloop.run(_serve(settings, arguments, doors))


async def _serve(settings: Settings, arguments: Sequence[str], doors: Sequence[socket.socket]) -> int:
    supervisor = Supervisor(settings, arguments, doors)
    supervisor.heed_signals()
    adopt_spools(settings)
    installation = await Installation(settings).open()
    try:
        first = await installation.first_start()
        if not settings.no_model:
            await installation.publish_default_model()
        preload = await installation.preload()
        models = [entry.model.id for entry in (await installation.present_catalogue()).listed()]
    finally:
        await installation.close()
    running = asyncio.get_running_loop().create_task(supervisor.run(preload))
    ready = asyncio.get_running_loop().create_task(supervisor.wait_ready())
    await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done() or first is not None:
        _greet(settings, first, models, is_ready=ready.done())
    ready.cancel()
    return await running


def _greet(settings: Settings, first: FirstStart | None, models: Sequence[str], *, is_ready: bool) -> None:
    """Once ready; what is shown only once also when it never came so far. All in one write: who reads along gets all or none."""
    console = Console(highlight=False, soft_wrap=True)
    with console:
        _print_greeting(console, settings, first, models, is_ready=is_ready)


def _print_greeting(
    console: Console, settings: Settings, first: FirstStart | None, models: Sequence[str], *, is_ready: bool
) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    base = f"http://{'127.0.0.1' if settings.host in ('0.0.0.0', '::') else host}:{settings.port}"  # noqa: S104
    if is_ready:
        console.print(f"\nllmaas is ready at {base}/v1  (data: {settings.data_dir})", style="bold", markup=False)
    if models:
        console.print(f"models: {', '.join(models)}", markup=False)
    else:
        console.print("no models yet: describe your machines in a file and run `llmaas apply FILE`", markup=False)
    if first is None:
        return
    console.print(
        f"""
Shown once, so keep it now:
  API key   {first.api_key}
  console   {base}/
  sign in   {first.admin_email}
  password  {first.one_time_password}   (one-time)
""",
        markup=False,
    )
    if not models:
        return
    console.print(
        f"""Try it; while the model is pulled and loaded, the answer is a 503 that says how far it is:
  curl {base}/v1/chat/completions -H 'Content-Type: application/json' \\
    -H 'Authorization: Bearer {first.api_key}' \\
    -d '{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "Hello! Who are you, in one sentence?"}}]}}'
""",
        markup=False,
    )
