"""What `llmaas doctor` looks at. Each check says what it found, and for what is not well how to put it right."""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from llmaas.cli.client import own_url
from llmaas.cli.providers import ask_backend, unset_here
from llmaas.domain.models import ProviderKind
from llmaas.domain.usage import UsageFilter
from llmaas.engines.probe import ProbeFailed, get_json
from llmaas.errors import ConfigurationError, LlmaasError, Unavailable
from llmaas.settings import Settings, engine_environment, without_password

if TYPE_CHECKING:
    from pathlib import Path

    from llmaas.datadir import Installation
    from llmaas.domain.fleet import Fleet

_GIB = 1024**3
_LITTLE_BYTES = 2 * _GIB
_TOO_LITTLE_BYTES = 200 * 1024**2
_RELEASED_MS = 1_760_000_000_000
"""A clock before this day is wrong."""
_TOLERANCE_MS = 60_000


class State(StrEnum):
    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    state: State
    about: str
    text: str
    fix: str | None = None


def good(about: str, text: str) -> Finding:
    return Finding(State.OK, about, text)


def note(about: str, text: str, fix: str) -> Finding:
    return Finding(State.NOTE, about, text, fix)


def warn(about: str, text: str, fix: str) -> Finding:
    return Finding(State.WARN, about, text, fix)


def fail(about: str, text: str, fix: str) -> Finding:
    return Finding(State.FAIL, about, text, fix)


def before_opening(settings: Settings) -> Iterator[Finding]:
    """What can be seen without the database."""
    yield _disk(settings)
    yield _data_dir(settings)
    yield _port(settings)
    yield _engine(settings)


async def within(installation: Installation) -> AsyncIterator[Finding]:
    """What needs the database; opening it has shown that the directory is writable and the schema is right."""
    yield await _database(installation)
    if installation.settings.state_url:
        yield await _counters(installation)
    yield _master_key(installation)
    yield _spool(installation)
    yield await _clock(installation)
    yield await _models(installation)
    yield _prices(await installation.catalogue.fleet())
    for finding in _model_files(installation, await installation.catalogue.fleet()):
        yield finding
    async for finding in _providers(installation):
        yield finding


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{settings.data_dir}, {free / _GIB:.1f} GiB free"
    if free < _TOO_LITTLE_BYTES:
        return fail(
            "disk", text, "free some space, or set --data-dir to another disk: usage must find room to be recorded"
        )
    if free < _LITTLE_BYTES:
        return warn("disk", text, "free some space: models are of several GiB")
    return good("disk", text)


def _data_dir(settings: Settings) -> Finding:
    """What is secret in it is its owner's alone file by file; a file that a careless hand puts there is not. A group may be meant."""
    folder = settings.data_dir
    mode = stat.S_IMODE(folder.stat().st_mode) if folder.exists() else 0
    if mode & stat.S_IRWXO:
        return warn("data directory", f"{folder} can be read by others (mode {mode:03o})", f"chmod 700 {folder}")
    return good("data directory", str(folder))


def _port(settings: Settings) -> Finding:
    about, where = "port", f"{settings.host}:{settings.port}"
    try:
        status, document = get_json(f"{own_url(settings)}/readyz", timeout_s=3.0)
    except ProbeFailed as error:
        return _bind(settings) if isinstance(error.__cause__, ConnectionRefusedError) else _taken(where)
    told = document.get("status") if isinstance(document, dict) else None
    if not isinstance(told, str):
        return _taken(where)
    if status == http.client.OK and "degraded" in document:
        fix = "look at the database and the log; usage rows wait in the spool until it takes them again"
        return warn(about, f"llmaas serves on {where}, but not all is well: {document['degraded']}", fix)
    if status == http.client.OK:
        return good(about, f"llmaas serves on {where}")
    return warn(about, f"llmaas runs on {where} but is not ready: {told}", "wait a moment; if it stays so, see its log")


def _bind(settings: Settings) -> Finding:
    where = f"{settings.host}:{settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        return fail("port", f"the host name {settings.host} is not known", "set --host to an address of this machine")
    except OSError as error:
        return fail("port", f"{where} cannot be listened on: {error.strerror}", "set --host and --port, or LLMAAS_PORT")
    return good("port", f"{where} is free; no llmaas runs there")


def _taken(where: str) -> Finding:
    return fail("port", f"another program listens on {where}", "stop it, or set --port or LLMAAS_PORT")


def _engine(settings: Settings) -> Finding:
    about = "engine"
    wanted = settings.llama_server
    found = shutil.which("llama-server" if wanted == "auto" else wanted) if wanted != "builtin" else None
    if found:
        return good(about, f"llama-server at {found}")
    if wanted not in {"auto", "builtin"}:
        return fail(about, f"there is no program {wanted}", "set llama_server to its path, or to `builtin`")
    try:
        # In a process of its own: a library for another processor would take this one down.
        command = [sys.executable, "-c", "import xllamacpp"]
        subprocess.run(command, check=True, capture_output=True, timeout=60, env=engine_environment())
    except (subprocess.SubprocessError, OSError):
        fix = "install llama.cpp's llama-server, or reinstall llmaas (`pip install --force-reinstall xllamacpp`)"
        return (
            fail(about, "the built-in engine cannot be loaded", fix)
            if not settings.no_model
            else warn(about, "none", fix)
        )
    return good(about, "built-in llama.cpp")


async def _database(installation: Installation) -> Finding:
    path, shared = installation.settings.database_shown, installation.settings.shared_database
    faults = await installation.database.faults()
    if faults and shared:
        return fail("database", f"{path} does not answer: {faults[0]}", "look at the server and database_url")
    if faults:
        return fail("database", f"{path} is damaged: {faults[0]}", "stop llmaas and restore the file from a backup")
    if not shared and (mode := _open_to_others(installation.settings.database_path)):
        return warn("database", f"{path} can be read by others (mode {mode:03o})", f"chmod 600 {path}*")
    return good("database", f"{path}, schema and integrity are right")


async def _counters(installation: Installation) -> Finding:
    place = without_password(installation.settings.state_url.reveal())
    try:
        await installation.ask_counters()
    except Unavailable as error:
        return fail(
            "valkey",
            f"{place}: {error.message}",
            "look at the server and state_url; meanwhile each worker counts alone",
        )
    return good("valkey", place)


def _master_key(installation: Installation) -> Finding:
    if installation.settings.master_key:
        return good("master key", "from the setting master_key")
    path = installation.settings.master_key_path
    if mode := _open_to_others(path):
        return fail("master key", f"{path} can be read by others (mode {mode:03o})", f"chmod 600 {path}")
    return good("master key", f"{path}, mode {stat.S_IMODE(path.stat().st_mode):03o}")


def _open_to_others(path: Path) -> int:
    """The mode of a file that others than its owner may use, else 0."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return mode if mode & (stat.S_IRWXG | stat.S_IRWXO) else 0


def _spool(installation: Installation) -> Finding:
    waiting = installation.count_spooled()
    if waiting:
        fix = "start `llmaas serve`: it moves them to the database; if they stay, see its log"
        return warn("spool", f"{waiting} usage rows wait for the database", fix)
    kept = installation.unreadable_spools()
    if kept:
        fix = "see what they hold; once it is dealt with, move them out of the spool folder"
        return warn("spool", f"usage rows that could not be read or stored: {', '.join(map(str, kept))}", fix)
    if not os.access(installation.settings.spool_path.parent, os.W_OK):
        return fail(
            "spool", f"{installation.settings.spool_path} cannot be written", "set spool_dir to a writable directory"
        )
    return good("spool", "empty")


async def _clock(installation: Installation) -> Finding:
    now_ms = installation.clock.now_ms()
    fix = "set this machine's clock, best by NTP: expiry of keys and usage depend on it"
    if now_ms < _RELEASED_MS:
        return fail("clock", "the clock is years behind", fix)
    async for row in installation.usage.rows(UsageFilter(), limit=1):
        if row.started_ms > now_ms + _TOLERANCE_MS:
            return fail("clock", "the newest usage row is from the future: the clock went back", fix)
    return good("clock", "plausible")


async def _models(installation: Installation) -> Finding:
    catalogue = await installation.present_catalogue()
    idle = [entry.model.id for entry in catalogue.listed() if not entry.targets]
    if idle:
        return warn(
            "models", f"nothing serves {', '.join(idle)}", "declare [[deployments]] for them with `llmaas apply`"
        )
    if not catalogue.listed():
        fix = (
            "describe machines and models in a file and run `llmaas apply FILE`; `llmaas serve` publishes a first model"
        )
        return warn("models", "none published yet", fix)
    return good("models", f"{len(catalogue.listed())} published")


def _prices(fleet: Fleet) -> Finding:
    unpriced = fleet.unpriced
    if not unpriced:
        return good("prices", "each model has one" if fleet.models else "no models yet")
    priced_by_tiers = {price.model_id for tier in fleet.tiers for price in tier.prices}
    named = ", ".join(f"{name} (but on tiers that have one)" if name in priced_by_tiers else name for name in unpriced)
    fix = "set `price` of the model in the fleet file and run `llmaas apply`; a price of 0 says that it is meant to be free"
    return warn("prices", f"no price: {named}; what they answer costs nothing", fix)


def _model_files(installation: Installation, fleet: Fleet) -> Iterator[Finding]:
    from llmaas.datadir import find_model_file

    embedded = {p.id for p in fleet.providers if p.kind is ProviderKind.EMBEDDED}
    here = {b.id for b in fleet.backends if b.provider_id in embedded}
    for root in dict.fromkeys(d.root for d in fleet.deployments if d.backend_id in here):
        about, fix = f"model file {root}", f"llmaas models pull {root}"
        try:
            path = find_model_file(installation.settings, root)
        except ConfigurationError as error:
            yield from (fail(about, problem, "correct models.toml in the data directory") for problem in error.problems)
        except LlmaasError as error:
            yield fail(about, error.message, error.hint or fix)
        else:
            yield (
                warn(about, "not here yet; it is pulled when it is first used", fix)
                if path is None
                else good(about, f"{path}, verified")
            )


async def _providers(installation: Installation) -> AsyncIterator[Finding]:
    fleet = await installation.catalogue.fleet()
    for provider in fleet.providers:
        about = f"provider {provider.id}"
        if provider.kind is ProviderKind.EMBEDDED:
            continue
        try:
            await installation.credential_of(provider)
        except LlmaasError as error:
            store = f"store it for all with `llmaas providers set-secret {provider.id}`"
            if told := unset_here(provider, error):
                yield note(about, told, f"where its log says credential_missing, set it there, or {store}")
            else:
                yield (warn if provider.api_key_env else fail)(about, error.message, error.hint or store)
            continue
        backends = [b for b in fleet.backends if b.provider_id == provider.id]
        for result in await asyncio.gather(*(ask_backend(installation, provider, b) for b in backends)):
            where = f"{about}, backend {result['backend']}"
            if result["ok"]:
                count = len(result["models"])
                yield good(where, f"{result['server']}, {count} model{'' if count == 1 else 's'}")
                wanted = {d.root for d in fleet.deployments if d.backend_id == result["backend"]}
                for root in sorted(wanted - set(result["models"])) if count else ():
                    fix = "pull or load it there, or correct `root` in the fleet file"
                    yield warn(
                        f"{where}, model {root}", "not among those that it lists, but a deployment asks for it", fix
                    )
            else:
                yield fail(where, result["error"], f"correct that; `llmaas providers test {provider.id}` looks again")
