"""The composition root: the only module that picks implementations. Nobody but the command line imports it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from llmaas.api import openapi
from llmaas.api.errors import render as render_error
from llmaas.api.health import HealthHandlers
from llmaas.api.inference import InferenceHandlers
from llmaas.api.models import ModelHandlers
from llmaas.api.routes import routes
from llmaas.clock import Clock, SystemClock
from llmaas.console.configured import SettingLine, setting_lines
from llmaas.console.live import Live
from llmaas.console.passwords import Passwords, one_time
from llmaas.console.platform import Platform
from llmaas.console.system import System
from llmaas.domain import keys as keys_domain
from llmaas.domain.addresses import DENIED, AddressRules
from llmaas.domain.audit import SYSTEM, Actor
from llmaas.domain.catalogue import Catalogue
from llmaas.domain.fleet import Fleet
from llmaas.domain.keys import Key, Permission
from llmaas.domain.limits import UNLIMITED, Limits
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
from llmaas.settings import Loaded, Secret, Settings, read_credential, without_password
from llmaas.state.budgets import BudgetLeases
from llmaas.state.leases import SharedCounters
from llmaas.state.limiter import CountingLimiter
from llmaas.state.memory import MemoryCounters
from llmaas.state.valkey import ValkeyCounters
from llmaas.storage.alerts import SqlAlertReader
from llmaas.storage.audit import SqlAuditLog
from llmaas.storage.backup import BackupSummary, restore_backup, store_master_key, write_backup
from llmaas.storage.budgets import SqlBudgetStore
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.corrections import SqlCorrections
from llmaas.storage.credit import SqlCreditStore
from llmaas.storage.database import Database, migrate, prepare
from llmaas.storage.duties import Duty
from llmaas.storage.invitations import SqlInvitationStore
from llmaas.storage.keys import SqlKeyStore
from llmaas.storage.ledger import Ledger
from llmaas.storage.ledger_check import SqlLedgerCheck
from llmaas.storage.members import SqlMemberStore
from llmaas.storage.presence import Presence
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.retention import SqlRetention
from llmaas.storage.revisions import SqlRevisionStore
from llmaas.storage.rollups import SqlRollups
from llmaas.storage.rotation import Rotation, read_pepper, rotate_key_file, seal_anew
from llmaas.storage.row_store import SHARED, RowStore
from llmaas.storage.secrets import SecretBox, pepper_of, read_or_make_master_key
from llmaas.storage.sessions import SqlSessionStore
from llmaas.storage.spool import Spool
from llmaas.storage.sqlite_rows import SqliteRows
from llmaas.storage.sums import SqlUsageSums
from llmaas.storage.tokens import SqlTokenStore
from llmaas.storage.usage import SqlUsageReader
from llmaas.storage.users import SqlUserStore
from llmaas.storage.workers import SqlWorkerStore
from llmaas.tasks import TaskSet, end
from llmaas.upstreams.base import Upstream
from llmaas.upstreams.embedded import EmbeddedLocations
from llmaas.upstreams.http import HttpTransport, Timeouts
from llmaas.upstreams.locations import RemoteLocations
from llmaas.upstreams.ollama import OllamaUpstream
from llmaas.upstreams.openai import OpenAiUpstream
from llmaas.upstreams.probe import Discovered, Found, Prober
from llmaas.web.asgi import ASGIApp
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
        master_key = _prepare(settings)
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        self.ids = IdSource()
        self.pepper = pepper_of(master_key)
        self.secret_box = SecretBox(master_key, None if settings.master_key else settings.master_key_path)
        self.database = Database(
            settings.database, limit_s=settings.database_timeout_s, pool_size=settings.database_connections
        )
        self.keys = SqlKeyStore(self.database)
        self.projects = SqlProjectStore(self.database)
        self.users = SqlUserStore(self.database)
        self.members = SqlMemberStore(self.database)
        self.sessions = SqlSessionStore(self.database)
        self.tokens = SqlTokenStore(self.database)
        self.invitations = SqlInvitationStore(self.database)
        self.passwords = Passwords()
        self.address_rules = AddressRules([*DENIED, *settings.upstream_deny], settings.upstream_allow)
        self._prober = Prober(self.address_rules.permits)
        self.catalogue = SqlCatalogueStore(self.database, self.address_rules)
        self.revisions = SqlRevisionStore(self.database)
        self.usage = SqlUsageReader(self.database)
        self.rollups = SqlRollups(self.database)
        self.retention = SqlRetention(self.database)
        self.audit = SqlAuditLog(self.database)
        self.credit = SqlCreditStore(self.database)
        self.corrections = SqlCorrections(self.database)
        self.ledger_check = SqlLedgerCheck(self.database)

    async def look_at(self, provider: Provider, backend: Backend) -> Found:
        """Ask a backend what it is and serves. Raises ProbeFailed, NotFound when its credential is missing."""
        credential = await self.credential_of(provider)
        return await asyncio.to_thread(self._prober.look_at, backend, provider.kind, credential)

    async def discover(self, address: str, credential: Secret | None) -> Discovered:
        """Find out what serves at an address that somebody typed. Raises ProbeFailed."""
        return await asyncio.to_thread(self._prober.discover, address, credential)

    async def open(self) -> Installation:
        """Makes the project `default` when there is no project at all. ConfigurationError for a foreign master key."""
        self.pepper = await read_pepper(self.database, self.secret_box) or self.pepper
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

    async def create_user(self, email: str, *, is_admin: bool, by: Actor = SYSTEM) -> str:
        """Add a user; gives the one-time password, which has to be changed at the first sign-in. Raises Conflict."""
        password = one_time()
        digest = await self.passwords.hash(password)
        user = User(
            id=f"user-{self.ids.uuid7()}",
            email=email,
            password_hash=digest,
            is_admin=is_admin,
            must_change_password=True,
            created_ms=self.clock.now_ms(),
        )
        await self.users.add(user, by=by)
        return password

    async def reset_password(self, user: User, *, by: Actor) -> str:
        """A new one-time password; the user's sessions end."""
        password = one_time()
        digest = await self.passwords.hash(password)
        await self.users.set_password(user.id, digest, must_change=True, keep_session=None, by=by)
        return password

    async def create_key(
        self,
        *,
        project_id: str,
        name: str,
        expires_ms: int | None = None,
        allowed_models: frozenset[str] = frozenset(),
        permissions: frozenset[Permission] = frozenset({Permission.INFERENCE_USE}),
        limits: Limits = UNLIMITED,
        networks: tuple[str, ...] = (),
        by: Actor = SYSTEM,
    ) -> tuple[str, Key]:
        """A new key and the token, which is nowhere else from now on. Raises NotFound for an unknown project."""
        draft = Key(
            id="",
            project_id=project_id,
            name=name,
            secret_hash=b"",
            created_ms=self.clock.now_ms(),
            expires_ms=expires_ms,
            allowed_models=allowed_models,
            permissions=permissions,
            limits=limits,
            networks=networks,
        )
        token, key = keys_domain.issue(draft, self.pepper)
        await self.keys.add(key, by=by)
        return token, key

    async def rotate_key(self, key: Key, *, overlap_ms: int, by: Actor = SYSTEM) -> tuple[str, Key]:
        """A successor with the same rights; the old key stops after the overlap. Raises NotFound, Conflict."""
        now_ms = self.clock.now_ms()
        token, successor = keys_domain.successor_of(key, now_ms, self.pepper)
        return token, await self.keys.rotate(key.id, successor, now_ms + overlap_ms, by=by)

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

    async def rotate_master_key(self, new_key: bytes | None, *, by: Actor) -> Rotation:
        """Seal all that is sealed with a new master key: the given one, or one made in the place of the file.

        Running processes follow a file by themselves; a key that was given has to be given to them at their next start.
        Raises ConfigurationError.
        """
        if not self.settings.master_key:
            path = self.settings.master_key_path
            return await rotate_key_file(self.database, self.secret_box, path, pepper=self.pepper, by=by)
        if new_key is None:
            raise ConfigurationError(["master_key: it is a setting here, so a new one has to be given"])
        return await seal_anew(self.database, self.secret_box, new_key, pepper=self.pepper, by=by)

    def count_spooled(self) -> int:
        """Rows that wait in the spools of this host's gateway processes for the database."""
        folders = [self.settings.spool_path, *_numbered_folders(self.settings.spool_path).values()]
        spools = [Spool(folder) for folder in folders]
        return sum(1 for spool in spools for file in spool.files() for _ in spool.read(file))


def adopt_spools(settings: Settings) -> None:
    """Give the first gateway process what those left behind that are not started any more. To be called before any runs."""
    for number, folder in _numbered_folders(settings.spool_path).items():
        for file in Spool(folder).files() if number >= settings.workers else ():
            target = settings.spool_path / file.name
            if not target.exists():  # else at a later start, when that one is in the database
                file.rename(target)


def _numbered_folders(spool_path: Path) -> dict[int, Path]:
    return {
        int(folder.name): folder for folder in spool_path.glob("[0-9]*") if folder.is_dir() and folder.name.isdigit()
    }


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
    return migrate(settings.database)


async def back_up(installation: Installation, path: Path, *, with_master_key: bool) -> BackupSummary:
    """Write the whole database to a new file. Raises Conflict when the file is there."""
    settings = installation.settings
    return await write_backup(
        installation.database,
        path,
        made_ms=installation.clock.now_ms(),
        master_key=settings.master_key_bytes or settings.master_key_path.read_bytes(),
        with_master_key=with_master_key,
    )


async def restore(settings: Settings, path: Path) -> tuple[BackupSummary, Path | None]:
    """Fill an empty database from a backup; gives also where the master key has to be put, None when it is there.

    Raises Conflict when the database is not empty or the master key here is another one, InvalidRequest for a bad file.
    """
    _check_writable(settings.data_dir)
    await asyncio.to_thread(prepare, settings.database)
    key_path = settings.master_key_path
    given = settings.master_key_bytes or (key_path.read_bytes() if key_path.exists() else None)
    database = Database(settings.database)
    try:
        summary = await restore_backup(database, path, master_key=given)
    finally:
        await database.close()
    if given is None and summary.master_key is not None:
        store_master_key(key_path, summary.master_key)
        return summary, None
    return summary, key_path if given is None else None


def _prepare(settings: Settings) -> bytes:
    """Makes the schema and the master key where there is neither; gives the key."""
    path, given = settings.master_key_path, settings.master_key_bytes
    if prepare(settings.database) and given is None and not path.exists():
        # A new one would open nothing that is sealed in the database, and no API key would work.
        raise ConfigurationError(
            [f"master_key: the one of this database is not at {path}; copy it there, or set LLMAAS_MASTER_KEY"]
        )
    return given or read_or_make_master_key(path)


def admin_api(
    installation: Installation,
    live: Live,
    system: System,
    shown_settings: Sequence[SettingLine],
    api_document: Mapping[str, Any],
) -> ASGIApp:
    """Pages, and everything below `/api`. Its parts are imported here, since commands start without a web framework.

    `api_document`: what `/openapi.json` says.
    """
    # ruff: disable[PLC0415]
    from llmaas.console.admin.services import Services
    from llmaas.console.application import build_admin
    from llmaas.console.oidc import OpenIdConfig, OpenIdConnect
    from llmaas.console.second_factor import SecondFactor
    from llmaas.console.sign_in import SignIn

    # ruff: enable[PLC0415]
    settings, clock, pepper = installation.settings, installation.clock, installation.pepper
    sign_in = SignIn(
        users=installation.users,
        sessions=installation.sessions,
        passwords=installation.passwords,
        second_factor=SecondFactor(installation.users, installation.secret_box, clock, pepper),
        clock=clock,
        ids=installation.ids,
        pepper=pepper,
        session_max_ms=round(settings.session_max_s * 1000),
    )
    open_id = OpenIdConfig(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=settings.oidc_client_secret.reveal(),
        redirect_uri=f"{settings.public_url}/api/v1/sign-in/openid/callback",
        email_domains=tuple(domain.lower() for domain in settings.oidc_email_domains),
        create_users=settings.oidc_create_users,
    )
    services = Services(
        clock=clock,
        ids=installation.ids,
        pepper=pepper,
        public_url=settings.public_url,
        session_idle_ms=round(settings.session_idle_s * 1000),
        users=installation.users,
        projects=installation.projects,
        members=installation.members,
        sessions=installation.sessions,
        tokens=installation.tokens,
        invitations=installation.invitations,
        keys=installation.keys,
        fleet=installation.catalogue,
        audit=installation.audit,
        sealer=installation.secret_box,
        usage=installation.usage,
        credit=installation.credit,
        budgets=SqlBudgetStore(installation.database),
        alerts=SqlAlertReader(installation.database),
        live=live,
        platform=Platform(live, installation.usage, clock),
        system=system,
        settings=shown_settings,
        api_document=api_document,
        look_at=installation.look_at,
        discover=installation.discover,
        workers=SqlWorkerStore(installation.database).list,
        currency=settings.currency,
        passwords=installation.passwords,
        sign_in=sign_in,
        open_id=OpenIdConnect(open_id, installation.secret_box, clock) if settings.oidc_issuer else None,
    )
    return build_admin(services)


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


async def serve_gateway(loaded: Loaded, ready_fd: int | None, number: int = 0) -> None:
    """Serve HTTP until SIGTERM or SIGINT, then drain. Writes a byte to `ready_fd` when requests are taken.

    `number` tells the gateway processes of this host apart, from 0.
    """
    settings = loaded.settings
    installation = await Installation(settings).open()
    worker = GatewayWorker(installation, number, loaded.origins)
    await worker.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    doors = [(worker.gateway, settings.host, settings.port)]
    if settings.metrics_listen:
        host, _, port = settings.metrics_listen.rpartition(":")
        doors.append((worker.metrics_only, host, int(port) + number))
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

    def __init__(self, installation: Installation, number: int = 0, origins: Mapping[str, str] | None = None) -> None:
        """`origins`: where each setting comes from, to be shown."""
        settings, clock = installation.settings, installation.clock
        self.id = installation.ids.uuid7()
        self._presence = Presence(settings.database, installation.database, self.id, clock, self._duties())
        self._installation = installation
        self._clock = clock
        self._tasks = TaskSet()
        self._credentials: dict[str, Secret | None] = {}
        self._revisions = Revisions(catalogue=0, keys=0, money=0)
        self._valkey: ValkeyCounters | None = None
        self._keeping_leases: asyncio.Task[None] | None = None
        self.metrics = Metrics()
        self.ledger = Ledger(self._row_store(), Spool(settings.spool_of(number)))
        self._counters = self._limit_counters()
        self.transport = HttpTransport(installation.address_rules.permits)
        self.own_transport = HttpTransport()  # to engines of this service, wherever they listen
        self.launcher = EngineClient(settings.engine_socket_path)
        self._catalogue = CatalogueHolder(_no_catalogue())
        load, health = Load(), Health(clock)
        self.service = InferenceService(
            catalogue=self._catalogue,
            upstreams=self._upstreams(settings),
            policy=LeastBusy(load, health),
            attempts=Attempts(load=load, health=health, metrics=self.metrics),
            log=self.ledger,
            limiter=CountingLimiter(self._counters, clock, max_age_s=2 * settings.total_timeout_s),
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
        table = routes(inference, ModelHandlers(self._catalogue), health_handlers)
        self.routes = RouteTable([*table, openapi.Document(table).route])
        self.gateway = self._surface(
            self.routes,
            admin_api(
                installation,
                Live(self._catalogue, health, load),
                self._system(),
                setting_lines(settings, origins or {}),
                openapi.build(self.routes.routes),
            ),
        )
        self.metrics_only = self._surface(RouteTable([Route("GET", "/metrics", "public", health_handlers.metrics)]))

    def _system(self) -> System:
        installation, valkey = self._installation, self._valkey
        return System(
            worker_id=self.id,
            host=socket.gethostname(),
            started_ms=self._clock.now_ms(),
            database_place=installation.settings.database_shown,
            counters_place=without_password(installation.settings.state_url.reveal()),
            data_dir=installation.settings.data_dir,
            ask_database=installation.revisions.read,
            ask_counters=None if valkey is None else valkey.ping,
            accepting=lambda: self.ledger.accepting,
            draining=lambda: self.service.draining,
            in_flight=lambda: self.service.in_flight,
            count_spooled=installation.count_spooled,
            clock=self._clock,
        )

    def _row_store(self) -> RowStore:
        settings = self._installation.settings
        if not settings.shared_database:
            return SqliteRows(settings.database_path, SHARED)
        from llmaas.storage.postgres_rows import PostgresRows  # noqa: PLC0415 - SQLite does without the driver

        return PostgresRows(str(settings.database), self.id)

    def _limit_counters(self) -> MemoryCounters | SharedCounters:
        """One worker counts for itself. Several count in Valkey, and share budgets by leases."""
        settings, database = self._installation.settings, self._installation.database
        sums = SqlUsageSums(database)
        if not settings.state_url:
            return MemoryCounters(SqlBudgetStore(database), sums, self.ledger.flushed)
        self._valkey = ValkeyCounters(
            settings.state_url.reveal(), self.id, sums, workers=settings.workers, timeout_s=settings.state_timeout_s
        )
        return SharedCounters(self._valkey, BudgetLeases(SqlBudgetStore(database, self.id)), self._clock)

    def _surface(self, table: RouteTable, admin: ASGIApp | None = None) -> Gateway:
        settings = self._installation.settings
        return Gateway(
            routes=table,
            admin=admin,
            authenticator=self._authenticator,
            cors=Cors(settings.cors_origins),
            render_error=render_error,
            ids=IdSource(),
            clock=self._clock,
            access_log=settings.access_log,
        )

    def _duties(self) -> list[Duty]:
        """What one worker of the fleet has to see to from time to time. The one place to add to."""
        return [
            Duty("workers", 30.0, self._forget_dead_workers),
            Duty("credit", 60.0, self._watch_credit),
            Duty("rollups", 300.0, self._fold_usage),
            Duty("retention", 3_600.0, self._remove_old_rows),
        ]

    async def _watch_credit(self, _fence: int) -> None:
        for project_id in await self._installation.credit.note_low_balances(
            self._installation.ids, self._clock.now_ms()
        ):
            _log.warning("credit_low", project=project_id)

    async def _fold_usage(self, _fence: int) -> None:
        await self._installation.rollups.fold(self._clock.now_ms())

    async def _remove_old_rows(self, _fence: int) -> None:
        removed = await self._installation.retention.sweep(self._clock.now_ms())
        if removed:
            _log.info("usage_rows_removed", rows=removed)

    async def _forget_dead_workers(self, _fence: int) -> None:
        for worker_id in await self._presence.dead():
            await SqlBudgetStore(self._installation.database).fold(worker_id)
            await self._presence.forget(worker_id)

    async def start(self) -> None:
        """Raises Unavailable when the database does not answer."""
        self.ledger.start()
        await self.launcher.start()
        self._revisions = await self._installation.revisions.read()
        await self._load_catalogue()
        if isinstance(self._counters, SharedCounters):
            self._keeping_leases = asyncio.create_task(self._counters.run(), name="leases")
        await self._presence.start(self._tasks, lambda: self._catalogue.current.revision)
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
        if self._keeping_leases is not None:  # only now nothing settles any more, so all of them can be given back
            await end(self._keeping_leases)
        if self._valkey is not None:
            await self._valkey.close()
        await self._presence.stop()
        await self.launcher.stop()
        await self.transport.close()
        await self.own_transport.close()

    async def _follow_changes(self) -> None:
        """Notice within `refresh_interval_s` what other processes changed. An unreachable database changes nothing here."""
        while True:
            await self._presence.changes.wait(self._installation.settings.refresh_interval_s)
            try:
                present = await self._installation.revisions.read()
                if present.keys != self._revisions.keys:
                    await self._authenticator.refresh()
                if present.catalogue != self._revisions.catalogue:
                    await self._load_catalogue()
                if present.money != self._revisions.money or present.keys != self._revisions.keys:
                    await self._counters.refresh()
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
            ProviderKind.EMBEDDED, self.own_transport, EmbeddedLocations(self.launcher), timeouts
        )
        upstreams[ProviderKind.OLLAMA] = OllamaUpstream(self.transport, remote, timeouts)
        return upstreams


def _no_catalogue() -> Catalogue:
    return Catalogue(revision=0, models=(), providers=(), backends=(), deployments=())
