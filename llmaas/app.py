"""The composition root: the only module that picks implementations. Nobody but the command line imports it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

import argon2
import structlog

from llmaas.api import openapi
from llmaas.api.errors import render as render_error
from llmaas.api.health import HealthHandlers
from llmaas.api.inference import InferenceHandlers
from llmaas.api.models import ModelHandlers
from llmaas.api.routes import routes
from llmaas.clock import Clock, SystemClock
from llmaas.console.landing import LandingPage
from llmaas.domain import keys as keys_domain
from llmaas.domain.catalogue import Catalogue
from llmaas.domain.fleet import Fleet
from llmaas.domain.keys import Key, Permission
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.ports import Revisions
from llmaas.domain.projects import DEFAULT_PROJECT, Project
from llmaas.domain.users import User
from llmaas.engine.client import EngineClient
from llmaas.engine.host import puller_of, run_engine_host
from llmaas.engine.manifest import ModelSpec, load_manifest
from llmaas.engine.pull import Progress
from llmaas.engine.store import ModelStore
from llmaas.errors import ConfigurationError, Conflict, NotFound, Unavailable
from llmaas.ids import IdSource
from llmaas.inference.attempts import Attempts
from llmaas.inference.service import CatalogueHolder, InferenceService
from llmaas.metrics import Metrics
from llmaas.routing.health import Health
from llmaas.routing.load import Load
from llmaas.routing.policy import LeastBusy
from llmaas.settings import Secret, Settings, read_credential
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.database import Database, migrate, prepare
from llmaas.storage.keys import SqlKeyStore
from llmaas.storage.ledger import SqliteLedger
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.revisions import SqlRevisionStore
from llmaas.storage.secrets import SecretBox, pepper_of, read_or_make_master_key
from llmaas.storage.spool import Spool
from llmaas.storage.usage import SqlUsageReader
from llmaas.storage.users import SqlUserStore
from llmaas.tasks import TaskSet
from llmaas.upstreams.base import Upstream
from llmaas.upstreams.embedded import EmbeddedLocations
from llmaas.upstreams.http import HttpTransport, Timeouts
from llmaas.upstreams.locations import RemoteLocations
from llmaas.upstreams.ollama import OllamaUpstream
from llmaas.upstreams.openai import OpenAiUpstream
from llmaas.web.auth import Authenticator
from llmaas.web.cors import Cors
from llmaas.web.gateway import Gateway
from llmaas.web.routes import Route, RouteTable
from llmaas.web.server import HttpServer, listen

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.app")

ADMIN_EMAIL = "admin@localhost"
_GC_THRESHOLD = 50_000
_EMBEDDED_CONCURRENCY = 128
"""Answers at once that an embedded engine is asked for by default; beyond its slots they wait in the engine."""


@dataclass(frozen=True, slots=True)
class FirstStart:
    """What is shown once, when an empty data directory is first served."""

    admin_email: str
    one_time_password: str
    api_key: str


class Installation:
    """A data directory and its stores: what every command works on."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        """Makes what an empty data directory needs. ConfigurationError when it can't be used."""
        _check_writable(settings.data_dir)
        prepare(settings.database_path)
        master_key = read_or_make_master_key(settings.data_dir / "master.key")
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        self.ids = IdSource()
        self.pepper = pepper_of(master_key)
        self.secret_box = SecretBox(master_key)
        self.database = Database(settings.database_path)
        self.keys = SqlKeyStore(self.database)
        self.projects = SqlProjectStore(self.database)
        self.users = SqlUserStore(self.database)
        self.catalogue = SqlCatalogueStore(self.database)
        self.revisions = SqlRevisionStore(self.database)
        self.usage = SqlUsageReader(self.database)

    async def open(self) -> Installation:
        """Makes the project `default` when there is no project at all."""
        if not await self.projects.list():
            with contextlib.suppress(Conflict):  # another process was faster
                await self.projects.add(Project(DEFAULT_PROJECT, "Default", self.clock.now_ms()))
        return self

    async def close(self) -> None:
        await self.database.close()

    async def first_start(self) -> FirstStart | None:
        """The admin user with a one-time password and a first key, made once; None when there are users already."""
        if await self.users.list():
            return None
        password = await self.create_user(ADMIN_EMAIL, is_admin=True)
        token, _ = await self.create_key(project_id=DEFAULT_PROJECT, name="first key")
        return FirstStart(ADMIN_EMAIL, password, token)

    async def publish_default_model(self) -> None:
        """Serve the default model by the embedded engine, unless a fleet is configured. ConfigurationError when the
        manifest does not know it.
        """
        present = await self.catalogue.fleet()
        if present.providers or present.models:
            return
        name = self.settings.default_model
        spec = load_manifest(self.settings.data_dir).get(name)
        if spec is None:
            raise ConfigurationError(
                [f"default_model: `{name}` is not in the model manifest; set --default-model or --no-model"]
            )
        machine = socket.gethostname() or "localhost"
        fleet = Fleet(
            providers=(Provider("embedded", ProviderKind.EMBEDDED),),
            backends=(Backend("embedded", "embedded", "", machine, "llama.cpp", _EMBEDDED_CONCURRENCY),),
            models=(
                Model(
                    id=spec.name,
                    kind=ModelKind(spec.kind),
                    created_ms=0,
                    aliases=tuple(spec.aliases),
                    max_model_len=spec.context,
                    max_output_tokens=spec.max_output_tokens,
                    owned_by=spec.owned_by,
                    capabilities=frozenset(spec.capabilities),
                    card=spec.card,
                ),
            ),
            deployments=(Deployment(spec.name, "embedded", spec.name),),
        )
        await self.catalogue.apply(fleet, now_ms=self.clock.now_ms(), prune=False)

    async def preload(self) -> list[str]:
        """The embedded models that are started with the service: the default one, when it is deployed."""
        catalogue = await self.catalogue.load()
        embedded = [
            target.deployment.root
            for entry in catalogue.listed()
            for target in entry.targets
            if target.provider.kind is ProviderKind.EMBEDDED
        ]
        return [root for root in embedded if root == self.settings.default_model][:1]

    async def create_user(self, email: str, *, is_admin: bool) -> str:
        """Add a user; gives the one-time password, which has to be changed at the first sign-in. Raises Conflict."""
        password = secrets.token_urlsafe(12)
        digest = await asyncio.to_thread(argon2.PasswordHasher().hash, password)
        user = User(
            id=f"user-{self.ids.uuid7()}",
            email=email,
            password_hash=digest,
            is_admin=is_admin,
            must_change_password=True,
            created_ms=self.clock.now_ms(),
        )
        await self.users.add(user)
        return password

    async def create_key(
        self,
        *,
        project_id: str,
        name: str,
        expires_ms: int | None = None,
        allowed_models: frozenset[str] = frozenset(),
        permissions: frozenset[Permission] = frozenset({Permission.INFERENCE_USE}),
    ) -> tuple[str, Key]:
        """A new key and the token, which is nowhere else from now on. Raises NotFound for an unknown project."""
        token, presented = keys_domain.mint()
        key = Key(
            id=presented.kid,
            project_id=project_id,
            name=name,
            secret_hash=keys_domain.hash_secret(presented, self.pepper),
            created_ms=self.clock.now_ms(),
            expires_ms=expires_ms,
            allowed_models=allowed_models,
            permissions=permissions,
        )
        await self.keys.add(key)
        return token, key

    async def rotate_key(self, key: Key, *, overlap_ms: int) -> tuple[str, Key]:
        """A successor with the same rights; the old key stops after the overlap. Raises NotFound, Conflict."""
        token, presented = keys_domain.mint()
        now_ms = self.clock.now_ms()
        if key.expires_ms is not None and key.expires_ms <= now_ms:
            raise Conflict(f"Key `{key.id}` has expired; make a new one.", param="key")
        successor = Key(
            id=presented.kid,
            project_id=key.project_id,
            name=key.name,
            secret_hash=keys_domain.hash_secret(presented, self.pepper),
            created_ms=now_ms,
            expires_ms=key.expires_ms,
            allowed_models=key.allowed_models,
            permissions=key.permissions,
            rotated_from=key.id,
        )
        await self.keys.rotate(key.id, successor, now_ms + overlap_ms)
        return token, successor

    async def credential_of(self, provider: Provider) -> Secret | None:
        """What we show to a provider; None when it asks for none. Raises NotFound when what it names is not there."""
        sealed = (await self.catalogue.sealed_secrets()).get(provider.id)
        if sealed is not None:
            try:
                return Secret(self.secret_box.open(provider.id, sealed))
            except ValueError as error:
                raise NotFound(f"{error}; store it anew with `llmaas providers set-secret {provider.id}`") from error
        if provider.api_key_env is None:
            return None
        credential = read_credential(provider.api_key_env)
        if credential is None:
            raise NotFound(f"The environment variable {provider.api_key_env} is not set here.")
        return credential

    def count_spooled(self) -> int:
        """Rows that wait in the spool for the database."""
        spool = Spool(self.settings.spool_path)
        return sum(1 for file in spool.files() for _ in spool.read(file))


def pull_model(settings: Settings, name: str, progress: Progress) -> Path:
    """Bring the file of a model of the manifest here; at once when it is here already. Blocks.

    Raises NotFound for a name that is not in the manifest, EngineFailed when no source gives the file.
    """
    _check_writable(settings.data_dir)
    return puller_of(settings).pull(_known_model(settings, name), progress)


def check_manifest(settings: Settings) -> None:
    """Raises ConfigurationError with every mistake of the model manifest."""
    load_manifest(settings.data_dir)


def find_model_file(settings: Settings, name: str) -> Path | None:
    """The verified file of a model of the manifest; None: not pulled yet. Raises NotFound, EngineFailed if corrupt."""
    return ModelStore(settings.models_path).find(_known_model(settings, name))


def _known_model(settings: Settings, name: str) -> ModelSpec:
    manifest = load_manifest(settings.data_dir)
    wanted = manifest.get(name)
    if wanted is None:
        known = ", ".join(manifest.names)
        raise NotFound(f"There is no model `{name}` in the manifest. It knows: {known}.", param="name")
    return wanted


def migrate_database(settings: Settings) -> tuple[str | None, str]:
    """Bring an older schema to this version's; gives both versions. ConfigurationError when it cannot be done."""
    _check_writable(settings.data_dir)
    return migrate(settings.database_path)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / f".writable-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            [f"data_dir: {folder} is not writable: {error.strerror}; set --data-dir or LLMAAS_DATA_DIR"]
        ) from error


async def serve_gateway(settings: Settings, ready_fd: int | None) -> None:
    """Serve HTTP until SIGTERM or SIGINT, then drain. Writes a byte to `ready_fd` when requests are taken."""
    installation = await Installation(settings).open()
    worker = GatewayWorker(installation)
    await worker.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    doors = [(worker.gateway, settings.host, settings.port)]
    if settings.metrics_listen:
        host, _, port = settings.metrics_listen.rpartition(":")
        doors.append((worker.metrics_only, host, int(port)))
    servers = []
    for surface, address, door in doors:
        server = HttpServer(surface.answer)
        await server.start(listen(address, door))
        servers.append(server)
    # What lives as long as the process need not be looked at again, and requests leave few cycles behind.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
    if ready_fd is not None:
        os.write(ready_fd, b"1")
        os.close(ready_fd)
    await stop.wait()
    await worker.stop()
    for server in servers:
        await server.stop()
    await installation.close()


async def serve_engines(settings: Settings, ready_fd: int | None) -> None:
    """Own the embedded engines until SIGTERM or SIGINT."""
    installation = await Installation(settings).open()
    preload = await installation.preload()
    await installation.close()
    await run_engine_host(settings, preload, ready_fd)


class GatewayWorker:
    """One gateway process: everything between the HTTP server and the engines. `gateway` is usable after `start`."""

    def __init__(self, installation: Installation) -> None:
        settings, clock = installation.settings, installation.clock
        self._installation = installation
        self._clock = clock
        self._tasks = TaskSet()
        self._credentials: dict[str, Secret | None] = {}
        self._revisions = Revisions(catalogue=0, keys=0, money=0)
        self.metrics = Metrics()
        self.ledger = SqliteLedger(settings.database_path, Spool(settings.spool_path))
        self.transport = HttpTransport()
        self.launcher = EngineClient(settings.engine_socket_path)
        self._catalogue = CatalogueHolder(_no_catalogue())
        load, health = Load(), Health(clock)
        self.service = InferenceService(
            catalogue=self._catalogue,
            upstreams=self._upstreams(settings),
            policy=LeastBusy(load, health),
            attempts=Attempts(load=load, health=health, metrics=self.metrics),
            log=self.ledger,
            clock=clock,
            metrics=self.metrics,
            currency=settings.currency,
            remote_images=settings.allow_remote_images,
        )
        self._authenticator = Authenticator(installation.keys, installation.pepper, clock, settings.key_cache_size)
        health_handlers = HealthHandlers(self.service, self.ledger, self.metrics)
        inference = InferenceHandlers(
            self.service, self._tasks, max_body_bytes=settings.max_body_bytes, ping_interval_s=settings.ping_interval_s
        )
        landing = Route("GET", "/", "public", LandingPage().show, operation=openapi.PAGE)
        table = [*routes(inference, ModelHandlers(self._catalogue), health_handlers), landing]
        self.routes = RouteTable([*table, openapi.Document(table).route])
        self.gateway = self._surface(self.routes)
        self.metrics_only = self._surface(RouteTable([Route("GET", "/metrics", "public", health_handlers.metrics)]))

    def _surface(self, table: RouteTable) -> Gateway:
        settings = self._installation.settings
        return Gateway(
            routes=table,
            authenticator=self._authenticator,
            cors=Cors(settings.cors_origins),
            render_error=render_error,
            ids=IdSource(),
            clock=self._clock,
            access_log=settings.access_log,
        )

    async def start(self) -> None:
        """Raises Unavailable when the database does not answer."""
        self.ledger.start()
        await self.launcher.start()
        self._revisions = await self._installation.revisions.read()
        await self._load_catalogue()
        self._tasks.spawn(self._follow_changes(), name="follow_changes")

    async def stop(self) -> None:
        """Take no new work, wait for what is under way within the drain limit, make all rows durable, let go of everything."""
        self.service.draining = True
        try:
            await asyncio.wait_for(self.service.drained(), self._installation.settings.drain_timeout_s)
        except TimeoutError:
            _log.warning("drain_time_over", in_flight=self.service.in_flight)
            self.service.interrupt()
            await self.service.drained()
        await self._tasks.cancel_all()
        await self.ledger.stop()
        await self.launcher.stop()
        await self.transport.close()

    async def _follow_changes(self) -> None:
        """Notice within `refresh_interval_s` what other processes changed. An unreachable database changes nothing here."""
        while True:
            await asyncio.sleep(self._installation.settings.refresh_interval_s)
            try:
                present = await self._installation.revisions.read()
                if present.keys != self._revisions.keys:
                    await self._authenticator.refresh()
                if present.catalogue != self._revisions.catalogue:
                    await self._load_catalogue()
                self._revisions = present
            except Unavailable as error:
                _log.warning("changes_not_readable", hint=error.hint)

    async def _load_catalogue(self) -> None:
        sealed = await self._installation.catalogue.sealed_secrets()
        catalogue = await self._installation.catalogue.load()
        self._credentials.clear()
        for provider in catalogue.providers.values():
            if provider.id in sealed:
                self._credentials[provider.id] = self._open(provider.id, sealed[provider.id])
            elif provider.api_key_env:
                credential = read_credential(provider.api_key_env)
                if credential is None:
                    _log.error("credential_missing", provider=provider.id, variable=provider.api_key_env)
                self._credentials[provider.id] = credential
        self._catalogue.current = catalogue
        _log.info("catalogue_loaded", revision=catalogue.revision, models=len(catalogue.entries))

    def _open(self, provider_id: str, sealed: bytes) -> Secret | None:
        try:
            return Secret(self._installation.secret_box.open(provider_id, sealed))
        except ValueError as error:
            _log.error("credential_unreadable", provider=provider_id, hint=str(error))
            return None

    def _upstreams(self, settings: Settings) -> dict[ProviderKind, Upstream]:
        timeouts = Timeouts(
            connect_s=settings.connect_timeout_s,
            first_byte_s=settings.first_byte_timeout_s,
            between_chunks_s=settings.between_chunks_timeout_s,
            total_s=settings.total_timeout_s,
        )
        remote = RemoteLocations(self._credentials)
        upstreams: dict[ProviderKind, Upstream] = {
            kind: OpenAiUpstream(kind, self.transport, remote, timeouts)
            for kind in (ProviderKind.LLAMA_CPP, ProviderKind.OPENAI, ProviderKind.VLLM)
        }
        upstreams[ProviderKind.EMBEDDED] = OpenAiUpstream(
            ProviderKind.EMBEDDED, self.transport, EmbeddedLocations(self.launcher), timeouts
        )
        upstreams[ProviderKind.OLLAMA] = OllamaUpstream(self.transport, remote, timeouts)
        return upstreams


def _no_catalogue() -> Catalogue:
    return Catalogue(revision=0, models=(), providers=(), backends=(), deployments=())
