"""The admin API over real stores, called in process, and people to call it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import argon2
import httpx

from llmaas.clock import ManualClock
from llmaas.console.application import build_admin
from llmaas.control.accounts.passwords import Passwords
from llmaas.control.accounts.second_factor import SecondFactor
from llmaas.control.accounts.sign_in import SignIn
from llmaas.control.context import Services
from llmaas.control.status.models import Live
from llmaas.control.status.process import System
from llmaas.control.status.public import Platform
from llmaas.control.status.settings import setting_lines
from llmaas.domain import tokens
from llmaas.domain.addresses import AddressRules
from llmaas.domain.audit import Actor
from llmaas.domain.catalogue import Catalogue
from llmaas.domain.members import Member, Role
from llmaas.domain.models import Backend, Provider
from llmaas.domain.ports import EngineAddress, Preparation
from llmaas.domain.projects import Project
from llmaas.domain.tokens import Token
from llmaas.domain.users import User
from llmaas.engines.probe import Discovered, Found, Prober
from llmaas.errors import NoBackend
from llmaas.ids import IdSource
from llmaas.inference.service import CatalogueHolder
from llmaas.net.asgi import ASGIApp, Receive, Scope, Send
from llmaas.notices.courier import Courier
from llmaas.notices.mail import Mailer
from llmaas.notices.webhooks import Webhooks
from llmaas.routing.health import Health
from llmaas.routing.load import Load
from llmaas.settings import Secret, Settings
from llmaas.storage.alerts import SqlAlertStore
from llmaas.storage.audit import SqlAuditLog
from llmaas.storage.budgets import SqlBudgetStore
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.credit import SqlCreditStore
from llmaas.storage.database import Database
from llmaas.storage.invitations import SqlInvitationStore
from llmaas.storage.keys import SqlKeyStore
from llmaas.storage.members import SqlMemberStore
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.secrets import SecretBox
from llmaas.storage.sessions import SqlSessionStore
from llmaas.storage.standing import hold_to
from llmaas.storage.tokens import SqlTokenStore
from llmaas.storage.usage import SqlUsageReader
from llmaas.storage.users import SqlUserStore
from llmaas.storage.workers import SqlWorkerStore
from llmaas.v1 import openapi
from llmaas.v1.routes import routes
from llmaas.web.throttle import AddressThrottle, Throttle

ORIGIN = "http://console.test"
PASSWORD = "correct horse battery"
PEPPER = bytes(range(32))
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
TEST = Actor("system", "test", "")


def make_system(clock: ManualClock, **more: Any) -> System:
    """All is well."""

    async def answers() -> None:
        pass

    values: dict[str, Any] = {
        "worker_id": "worker-1",
        "host": "here",
        "started_ms": clock.now_ms(),
        "database_place": "/data/llmaas.db",
        "counters_place": "",
        "data_dir": Path("/"),
        "ask_database": answers,
        "ask_counters": None,
        "accepting": lambda: True,
        "draining": lambda: False,
        "in_flight": lambda: 0,
        "count_spooled": lambda: 0,
        "clock": clock,
    }
    return System(**{**values, **more})


def make_services(database: Database, clock: ManualClock) -> Services:
    users, sessions, passwords = SqlUserStore(database), SqlSessionStore(database), Passwords(CHEAP)
    second_factor = SecondFactor(users, SecretBox(PEPPER), clock, PEPPER)
    sign_in = SignIn(
        users=users,
        sessions=sessions,
        passwords=passwords,
        second_factor=second_factor,
        clock=clock,
        ids=IdSource(),
        pepper=PEPPER,
        session_max_ms=7 * 86_400_000,
    )

    prober = Prober(AddressRules().permits)

    async def look_at(provider: Provider, backend: Backend) -> Found:
        return await asyncio.to_thread(prober.look_at, backend, provider.kind, None)

    async def discover(address: str, credential: Secret | None) -> Discovered:
        return await asyncio.to_thread(prober.discover, address, credential)

    nothing = Catalogue(revision=0, models=(), providers=(), backends=(), deployments=())
    live, usage = Live(CatalogueHolder(nothing), Health(clock), Load(), Engines()), SqlUsageReader(database)
    webhooks = Webhooks(AddressRules().permits, PEPPER)
    return Services(
        clock=clock,
        ids=IdSource(),
        pepper=PEPPER,
        public_url="",
        session_idle_ms=3_600_000,
        users=users,
        projects=SqlProjectStore(database),
        members=SqlMemberStore(database),
        sessions=sessions,
        hold_to=hold_to,
        tokens=SqlTokenStore(database),
        invitations=SqlInvitationStore(database),
        keys=SqlKeyStore(database),
        fleet=SqlCatalogueStore(database),
        audit=SqlAuditLog(database),
        sealer=SecretBox(PEPPER),
        usage=usage,
        credit=SqlCreditStore(database),
        budgets=SqlBudgetStore(database),
        alerts=SqlAlertStore(database),
        alert_tests=Throttle(clock, burst=3, pause_s=20.0),
        guesses=AddressThrottle(clock, burst=100, pause_s=0.5),
        teller=Courier(Mailer(Secret(""), ""), webhooks, clock, console_url="https://llm.example.org", currency="EUR"),
        webhook_secret=webhooks.secret,
        live=live,
        platform=Platform(live, usage, clock),
        system=make_system(clock),
        settings=setting_lines(Settings(), {"port": "flag"}),
        api_document=openapi.build([*_ROUTES, openapi.Document(_ROUTES).route]),
        look_at=look_at,
        discover=discover,
        workers=SqlWorkerStore(database).list,
        currency="EUR",
        passwords=passwords,
        sign_in=sign_in,
        open_id=None,
    )


class _NoHandlers:
    """Stands for handlers where only their routes are looked at."""

    def __getattr__(self, name: str) -> Any:
        return None


_NO_HANDLERS: Any = _NoHandlers()
_ROUTES = routes(_NO_HANDLERS, _NO_HANDLERS, _NO_HANDLERS)


class Engines:
    """What embedded engines say of themselves, by the models' own names."""

    def __init__(self) -> None:
        self.told: dict[str, Preparation] = {}

    def ensure_ready(self, root: str) -> EngineAddress:
        raise NoBackend(f"no engine of `{root}` runs here")

    def preparation(self, root: str) -> Preparation | None:
        return self.told.get(root)


@dataclass(slots=True)
class Browser:
    """A client with its own cookies, which sends what pages of ours send."""

    http: httpx.AsyncClient
    csrf: str = ""

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"origin": ORIGIN, "x-csrf-token": self.csrf, **given}
        kept = {name: value for name, value in sent.items() if value}
        return await self.http.request(method, f"/api/v1{path}", json=body, headers=kept)

    async def sign_in(self, email: str, password: str = PASSWORD, code: str = "") -> httpx.Response:
        answer = await self.call("POST", "/sign-in", {"email": email, "password": password, "code": code})
        if answer.status_code == 200:
            self.csrf = answer.json()["csrf_token"]
        return answer


class Site:
    """The application, built once for all tests, since that takes longer than most of them."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._within: Services | None = None
        self._lent: Services | None = None
        self._running = 0

    def serving(self, services: Services) -> ASGIApp:
        """The application with these services; requests to two of them must not overlap."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            within = self._lend(services)
            self._running += 1
            try:
                await within(scope, receive, send)
            finally:
                self._running -= 1

        return app

    def _lend(self, services: Services) -> ASGIApp:
        if self._app is None or self._within is None:
            self._within = dataclasses.replace(services)
            self._app = build_admin(self._within)
        if services is not self._lent:
            assert not self._running
            self._lent = services
            for one in dataclasses.fields(services):
                object.__setattr__(self._within, one.name, getattr(services, one.name))  # frozen for all but us
        return self._app


@dataclass(slots=True)
class Admin:
    """The API with its stores, and people to call it."""

    site: Site
    services: Services
    clock: ManualClock
    database: Database
    clients: list[httpx.AsyncClient] = field(default_factory=list)
    password_hash: str = ""

    def client(self, services: Services | None = None, *, address: str = "127.0.0.1") -> Browser:
        app: Any = self.site.serving(services or self.services)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=(address, 123))
        http = httpx.AsyncClient(transport=transport, base_url=ORIGIN, follow_redirects=False)
        self.clients.append(http)
        return Browser(http)

    async def user(self, name: str, *, admin: bool = False, **more: Any) -> User:
        if not self.password_hash:
            self.password_hash = await self.services.passwords.hash(PASSWORD)
        user = User(f"user-{name}", f"{name}@example.org", self.password_hash, admin, False, self.clock.now_ms())
        user = dataclasses.replace(user, **more)
        await self.services.users.add(user, by=TEST)
        return user

    async def project(self, project_id: str, **members: Role) -> None:
        await self.services.projects.add(Project(project_id, project_id.title(), self.clock.now_ms()), by=TEST)
        for name, role in members.items():
            await self.services.members.add(Member(project_id, f"user-{name}", role, self.clock.now_ms()), by=TEST)

    async def token(self, user: User, **more: Any) -> str:
        """The header that a program of the user sends."""
        text, token_id, secret_hash = tokens.mint(PEPPER)
        token = Token(token_id, user.id, "test", secret_hash, self.clock.now_ms())
        await self.services.tokens.add(dataclasses.replace(token, **more), by=TEST)
        return f"Bearer {text}"


SignedIn = Callable[[str], Awaitable[Browser]]
