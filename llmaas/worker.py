"""The composition root of a gateway process: the module that picks implementations for it. Nobody but the command line imports it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import structlog

from llmaas.compose import admin_api
from llmaas.control.status.models import Live
from llmaas.control.status.process import System
from llmaas.control.status.settings import setting_lines
from llmaas.datadir import Installation, database_lock
from llmaas.domain.addresses import Proxies
from llmaas.domain.catalogue import Catalogue
from llmaas.domain.models import ProviderKind
from llmaas.domain.ports import Revisions
from llmaas.engines.contract import Upstream
from llmaas.engines.embedded import EmbeddedLocations
from llmaas.engines.locations import RemoteLocations
from llmaas.engines.ollama.wire import OllamaUpstream
from llmaas.engines.openai.wire import OpenAiUpstream
from llmaas.errors import ConfigurationError, NotFound, Unavailable
from llmaas.hosting.local.client import EngineClient
from llmaas.hosting.local.host import run_engine_host
from llmaas.ids import IdSource
from llmaas.inference.attempts import Attempts
from llmaas.inference.service import LAST_WORDS_S, CatalogueHolder, InferenceService
from llmaas.inference.settlement import Books
from llmaas.metrics import Metrics
from llmaas.net.asgi import ASGIApp
from llmaas.net.bodies import Bodies
from llmaas.net.client import HttpTransport, Timeouts
from llmaas.net.neighbours import Neighbours
from llmaas.net.server import HttpServer, listen
from llmaas.pulse import STOPS, Pulse, ignore_stops
from llmaas.resources import memory_bytes, raise_file_limit, room_for_connections
from llmaas.routing.health import Health
from llmaas.routing.load import Load
from llmaas.routing.policy import LeastBusy
from llmaas.settings import Loaded, Secret, Settings, without_password
from llmaas.state.budgets import BudgetLeases
from llmaas.state.leases import SharedCounters
from llmaas.state.limiter import CountingLimiter
from llmaas.state.memory import MemoryCounters
from llmaas.state.valkey import ValkeyCounters
from llmaas.storage.budgets import SqlBudgetStore
from llmaas.storage.duties import Duty
from llmaas.storage.file_locks import FileLock, LifeFiles
from llmaas.storage.ledger import Ledger
from llmaas.storage.presence import Presence
from llmaas.storage.row_store import SHARED, RowStore
from llmaas.storage.spool import Spool
from llmaas.storage.sqlite_rows import SqliteRows
from llmaas.storage.sums import SqlUsageSums
from llmaas.tasks import TaskSet, end, for_ever
from llmaas.v1 import openapi
from llmaas.v1.errors import render as render_error
from llmaas.v1.health import HealthHandlers
from llmaas.v1.inference import InferenceHandlers
from llmaas.v1.models import ModelHandlers
from llmaas.v1.routes import routes
from llmaas.web.auth import Authenticator
from llmaas.web.cors import Cors
from llmaas.web.gateway import Gateway
from llmaas.web.routes import Route, RouteTable

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.worker")

_BODIES_SHARE = 16
"""A body takes about four times its size while it is worked on."""
_MOST_SCRAPERS = 16
_NEVER = -1
"""A revision that no database has."""
_LOOK_AGAIN_S = 5.0
_BEHIND_S = 3.0
"""How long what changed of keys may be unreadable before no key is held any more: a revoked one stops within five seconds."""
_PLACE_S = 5.0
_PLACE_AGAIN_S = 0.1


async def serve_gateway(
    loaded: Loaded, ready_fd: int | None, number: int = 0, doors: Sequence[socket.socket] = ()
) -> None:
    """Serve HTTP until a signal says to stop, then drain; a SIGINT after that ends what is under way. The pulse goes to `ready_fd`
    from when requests are taken.

    `number` tells the gateway processes of this host apart, from 0. `doors`: where each of them listens; else it makes its own.
    """
    settings = loaded.settings
    file_limit = raise_file_limit()
    installation = await Installation(settings).open()
    worker = GatewayWorker(installation, number, loaded.origins)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    servers: list[HttpServer] = []

    def heed(*, again: bool) -> None:
        if again and stop.is_set():
            worker.service.interrupt()
            for server in servers:
                server.hurry(LAST_WORDS_S)
        worker.service.draining = True
        stop.set()

    # Whoever stops the service may tell all its processes, and the supervisor tells them too: it is one stop. Before the start, so
    # that a worker which others have heard of by then signs off.
    for stops in STOPS:
        loop.add_signal_handler(stops, partial(heed, again=stops is signal.SIGINT))
    await worker.start()
    most = settings.max_connections or room_for_connections(file_limit)
    bodies = Bodies(
        settings.max_bodies_bytes or memory_bytes() // _BODIES_SHARE // settings.workers,
        least_share=settings.max_body_bytes,
    )
    main = HttpServer(
        worker.gateway.answer,
        Proxies(settings.trusted_proxies),
        most_connections=most,
        bodies=bodies,
        knows=worker.gateway.knows,
    )
    servers.append(main)
    await main.start(doors[number] if doors else listen(settings.host, settings.port))
    neighbours = Neighbours(main, [door for other, door in enumerate(doors) if other != number])
    neighbours.start()
    if settings.metrics_listen:
        host, _, port = settings.metrics_listen.rpartition(":")
        metrics = HttpServer(
            worker.metrics_only.answer,
            Proxies(settings.trusted_proxies),
            most_connections=min(most, _MOST_SCRAPERS),
            bodies=bodies,
        )
        servers.append(metrics)
        await metrics.start(listen(host, int(port) + number))
    # What lives as long as the process need not be looked at again.
    gc.collect()
    gc.freeze()
    pulse = Pulse(ready_fd)
    pulse.start()
    await stop.wait()
    until_s = loop.time() + settings.drain_timeout_s
    await worker.stop()
    neighbours.stop()
    for server in servers:
        await server.stop(max(until_s - loop.time(), LAST_WORDS_S))
    await installation.close()
    pulse.stop()
    ignore_stops()


async def serve_engines(settings: Settings, preload: Sequence[str], ready_fd: int | None) -> None:
    """Own the embedded engines until a signal says to stop. `preload`: models that are brought up unasked."""
    await run_engine_host(settings, preload, ready_fd)


class GatewayWorker:
    """One gateway process: everything between the HTTP server and the engines. `gateway` is usable after `start`."""

    def __init__(self, installation: Installation, number: int = 0, origins: Mapping[str, str] | None = None) -> None:
        """`origins`: where each setting comes from, to be shown."""
        settings, clock = installation.settings, installation.clock
        self.id = installation.ids.uuid7()
        self._presence = Presence(
            settings.database,
            installation.database,
            self.id,
            clock,
            self._duties(),
            alone=not settings.state_url,
            silence_s=2 * settings.total_timeout_s,
        )
        self._lives = LifeFiles(settings.data_dir / "workers")
        self._places = [FileLock(settings.spool_of(number) / "lock")]
        if not settings.shared_database:
            self._places.append(FileLock(database_lock(settings)))
        self._installation = installation
        self._clock = clock
        self._tasks = TaskSet()
        self._credentials: dict[str, Secret | None] = {}
        self._revisions = Revisions(catalogue=0, keys=0, money=0)
        self._day = ""
        self._keys_unknown_since_s: float | None = None
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
            books=Books(self.ledger, clock, self.metrics, settings.currency),
            limiter=CountingLimiter(self._counters, clock, max_age_s=2 * settings.total_timeout_s),
            remote_images=settings.allow_remote_images,
            usage_always=settings.stream_usage == "always",
        )
        self._authenticator = Authenticator(installation.keys, installation.pepper, clock, settings.key_cache_size)
        health_handlers = HealthHandlers(self.service, self.ledger, self.metrics, lambda: not self._is_behind)
        inference = InferenceHandlers(
            self.service,
            self._authenticator,
            self._tasks,
            max_body_bytes=settings.max_body_bytes,
            ping_interval_s=settings.ping_interval_s,
        )
        table = routes(inference, ModelHandlers(self._catalogue), health_handlers)
        self.routes = RouteTable([*table, openapi.Document(table).route])
        self.gateway = self._surface(
            self.routes,
            admin_api(
                installation,
                Live(self._catalogue, health, load, self.launcher),
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
            return SqliteRows(settings.database_path, SHARED, self._installation.database.watched)
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
            Duty("workers", 30.0, self._forget_gone_workers),
            Duty("credit", 60.0, self._watch_money),
            Duty("alerts", 15.0, self._tell_alerts),
            Duty("rollups", 300.0, self._fold_usage),
            Duty("retention", 3_600.0, self._remove_old_rows),
        ]

    async def _watch_money(self) -> None:
        alerts, ids, now_ms = self._installation.alerts, self._installation.ids, self._clock.now_ms()
        for project_id in await alerts.watch_credit(ids, now_ms):
            _log.warning("credit_low", project=project_id)
        for project_id in await alerts.watch_caps(ids, now_ms):
            _log.warning("cap_near", project=project_id)

    async def _tell_alerts(self) -> None:
        await self._installation.courier.deliver(self._installation.alerts)

    async def _fold_usage(self) -> None:
        await self._installation.rollups.fold(self._clock.now_ms())
        await self._installation.end_users.make(self._clock.now_ms())

    async def _remove_old_rows(self) -> None:
        removed = await self._installation.retention.sweep(self._clock.now_ms())
        if removed:
            _log.info("usage_rows_removed", rows=removed)

    async def _forget_gone_workers(self) -> None:
        for worker_id in await self._presence.gone():
            await self._forget(worker_id)

    async def _bury_neighbours(self) -> None:
        """Workers of this data directory that were killed: what they leased is free again once their rows are counted."""
        with contextlib.suppress(Unavailable, OSError):
            for worker_id in self._lives.left_behind():
                if self._installation.spooling():
                    break
                await self._forget(worker_id)
                self._lives.bury(worker_id)
        await asyncio.sleep(_LOOK_AGAIN_S)

    async def _forget(self, worker_id: str) -> None:
        await SqlBudgetStore(self._installation.database).fold(worker_id)
        await self._presence.forget(worker_id)
        _log.info("worker_forgotten", worker=worker_id)

    async def start(self) -> None:
        """Raises Unavailable when the database does not answer, ConfigurationError when another process works here."""
        await self._take_place()
        self.ledger.start()
        await self.launcher.start()
        self._revisions = await self._installation.revisions.read()
        await self._load_catalogue()
        if self._valkey is not None:
            await self._look_for_counters(self._valkey)
        if isinstance(self._counters, SharedCounters):
            self._presence.changes.called_back = self._counters.called_back
            self._keeping_leases = asyncio.create_task(self._counters.run(), name="leases")
        await self._presence.start(self._tasks, lambda: self._catalogue.current.revision)
        if self._installation.settings.shared_database:
            self._lives.begin(self.id)
            self._tasks.spawn(for_ever(self._bury_neighbours, name="neighbours"), name="neighbours")
        self._tasks.spawn(for_ever(self._follow_changes, name="follow_changes"), name="follow_changes")

    async def _look_for_counters(self, valkey: ValkeyCounters) -> None:
        """Requests are served without them, so a wrong address has to be said."""
        try:
            await valkey.ping()
        except Unavailable as error:
            place = without_password(self._installation.settings.state_url.reveal())
            _log.error("counters_away", state_url=place, hint=f"{error.message} Each worker counts alone meanwhile.")

    async def stop(self) -> None:
        """Take no new work, wait for what is under way within the drain limit, make all rows durable, let go of everything."""
        self.service.draining = True
        if self.service.in_flight:
            within_s = self._installation.settings.drain_timeout_s
            _log.info(
                "draining", in_flight=self.service.in_flight, within_s=within_s, hint="stop again to end them at once"
            )
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
        await self._presence.stop(leave=not self.ledger.backlog)
        await self.launcher.stop()
        await self.transport.close()
        await self.own_transport.close()
        for place in self._places:
            place.free()

    async def _take_place(self) -> None:
        """Two processes that write one spool or one SQLite would lose rows and count apart. One that was killed lets go at once,
        one that stops may take a moment.
        """
        until_s = self._clock.monotonic_s() + _PLACE_S
        for place in self._places:
            while not place.take():
                if self._clock.monotonic_s() > until_s:
                    raise ConfigurationError(
                        [
                            (
                                f"data_dir: another gateway works on {place.path.parent}; wait until it has ended, or stop it, or set"
                                " --data-dir or LLMAAS_DATA_DIR"
                            )
                        ]
                    )
                await asyncio.sleep(_PLACE_AGAIN_S)

    async def _follow_changes(self) -> None:
        """Notice within `refresh_interval_s` what other processes changed. An unreachable database changes nothing here."""
        await self._presence.changes.wait(self._installation.settings.refresh_interval_s)
        try:
            await self._take_in_changes()
        except Unavailable as error:
            _log.warning("changes_not_readable", hint=error.hint)
        finally:
            if self._presence.silent_s > self._installation.settings.total_timeout_s:
                await self._counters.refresh()  # idle leases are given up before others take this worker for gone

    async def _take_in_changes(self) -> None:
        with self._or_behind(harmless=Unavailable):  # while the database is away, what is known goes on
            present = await self._installation.revisions.read()
        keys_changed = present.keys != self._revisions.keys
        if keys_changed:
            with self._or_behind(harmless=()):
                await self._authenticator.refresh()
        self._keys_unknown_since_s = None
        if present.catalogue != self._revisions.catalogue or self._installation.today != self._day:
            await self._load_catalogue()
        money = self._revisions.money
        if present.money != money or keys_changed:
            money = present.money if await self._counters.refresh() else _NEVER
        self._revisions = dataclasses.replace(present, money=money)

    @contextlib.contextmanager
    def _or_behind(self, *, harmless: type[Exception] | tuple[()]) -> Iterator[None]:
        """When it fails for long, keys are held no longer: each is read by itself when it is used, so a revoked one stops."""
        try:
            yield
        except harmless:
            raise
        except Exception:
            if self._keys_unknown_since_s is None:
                self._keys_unknown_since_s = self._clock.monotonic_s()
            if self._is_behind:
                self._authenticator.forget()
            raise

    @property
    def _is_behind(self) -> bool:
        since_s = self._keys_unknown_since_s
        return since_s is not None and self._clock.monotonic_s() - since_s >= _BEHIND_S

    async def _load_catalogue(self) -> None:
        sealed = await self._installation.catalogue.sealed_secrets()
        self._day = self._installation.today
        catalogue = await self._installation.present_catalogue()
        self._credentials.clear()
        for provider in catalogue.providers.values():
            if provider.id in sealed:
                self._credentials[provider.id] = self._open(provider.id, sealed[provider.id])
            elif provider.api_key_env:
                self._credentials[provider.id] = self._read(provider.id, provider.api_key_env)
        self._catalogue.current = catalogue
        _log.info("catalogue_loaded", revision=catalogue.revision, models=len(catalogue.entries))

    def _open(self, provider_id: str, sealed: bytes) -> Secret | None:
        try:
            return Secret(self._installation.secret_box.open(provider_id, sealed))
        except ValueError as error:
            _log.error("credential_unreadable", provider=provider_id, hint=str(error))
            return None

    def _read(self, provider_id: str, variable: str) -> Secret | None:
        try:
            return self._installation.credential_in(variable)
        except NotFound as error:
            _log.error("credential_missing", provider=provider_id, variable=variable, hint=error.message)
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
