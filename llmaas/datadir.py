"""A data directory with its database and its models, and what commands do with them. It picks the adapters for that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from llmaas.clock import Clock, SystemClock, iso
from llmaas.control.accounts.passwords import Passwords, one_time
from llmaas.domain import keys as keys_domain
from llmaas.domain.addresses import DENIED, PRIVATE, AddressRules
from llmaas.domain.audit import SYSTEM, Actor
from llmaas.domain.catalogue import Catalogue
from llmaas.domain.credentials import CredentialVariables
from llmaas.domain.fleet import Fleet
from llmaas.domain.keys import Key, Permission
from llmaas.domain.limits import UNLIMITED, Limits
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.projects import DEFAULT_PROJECT, Project
from llmaas.domain.users import User
from llmaas.engines.probe import Discovered, Found, ProbeFailed, Prober
from llmaas.errors import ConfigurationError, Conflict, NotFound
from llmaas.hosting.local.host import puller_of
from llmaas.hosting.models.manifest import ModelSpec, load_manifest
from llmaas.hosting.models.pull import Progress
from llmaas.hosting.models.store import ModelStore
from llmaas.ids import IdSource
from llmaas.net.names import HostNames
from llmaas.notices.courier import Courier
from llmaas.notices.mail import Mailer
from llmaas.notices.webhooks import Webhooks
from llmaas.settings import Secret, Settings, read_credential
from llmaas.state.valkey import ValkeyCounters
from llmaas.storage.alerts import SqlAlertStore
from llmaas.storage.audit import SqlAuditLog
from llmaas.storage.backup import BackupSummary, restore_backup, store_master_key, write_backup
from llmaas.storage.budgets import SqlBudgetStore
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.corrections import SqlCorrections
from llmaas.storage.credit import SqlCreditStore
from llmaas.storage.database import Database, look, migrate, prepare
from llmaas.storage.end_users import SqlEndUsers
from llmaas.storage.file_locks import FileLock
from llmaas.storage.invitations import SqlInvitationStore
from llmaas.storage.keys import SqlKeyStore
from llmaas.storage.ledger_check import SqlLedgerCheck
from llmaas.storage.members import SqlMemberStore
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.retention import SqlRetention
from llmaas.storage.revisions import SqlRevisionStore
from llmaas.storage.rollups import SqlRollups
from llmaas.storage.rotation import Rotation, check_master_key, read_pepper, rotate_key_file, seal_anew
from llmaas.storage.secrets import SecretBox, pepper_of, read_or_make_master_key
from llmaas.storage.sessions import SqlSessionStore
from llmaas.storage.spool import Spool
from llmaas.storage.sums import SqlUsageSums
from llmaas.storage.tokens import SqlTokenStore
from llmaas.storage.usage import SqlUsageReader
from llmaas.storage.users import SqlUserStore

ADMIN_EMAIL = "admin@localhost"
_ASKING_S = 2.0
_PROBES = 4
_PROBE_S = 30.0
_Told = TypeVar("_Told", Found, Discovered)
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
        self._names = HostNames()  # for what runs in threads; the event loop has its own
        self._prober = Prober(self.address_rules.permits, names=self._names)
        self._probes = ThreadPoolExecutor(_PROBES, "probes")
        self._credential_variables = CredentialVariables(settings.credential_variables)
        self.catalogue = SqlCatalogueStore(self.database, self.address_rules, self._credential_variables)
        self.revisions = SqlRevisionStore(self.database)
        self.usage = SqlUsageReader(self.database)
        self.rollups = SqlRollups(self.database)
        self.end_users = SqlEndUsers(self.database)
        self.retention = SqlRetention(self.database)
        self.audit = SqlAuditLog(self.database)
        self.budgets = SqlBudgetStore(self.database)
        self.credit = SqlCreditStore(self.database)
        self.alerts = SqlAlertStore(self.database)
        self.corrections = SqlCorrections(self.database)
        self.ledger_check = SqlLedgerCheck(self.database)

    @cached_property
    def webhooks(self) -> Webhooks:
        rules = AddressRules([*DENIED, *PRIVATE], self.settings.webhook_allow)
        return Webhooks(rules.permits, self.pepper, names=self._names)

    @cached_property
    def courier(self) -> Courier:
        settings = self.settings
        mailer = Mailer(settings.smtp_url, settings.smtp_from, self._names)
        return Courier(mailer, self.webhooks, self.clock, console_url=settings.public_url, currency=settings.currency)

    async def look_at(self, provider: Provider, backend: Backend) -> Found:
        """Ask a backend what it is and serves. Raises ProbeFailed, NotFound when its credential is missing."""
        credential = await self.credential_of(provider)
        return await self._probing(lambda: self._prober.look_at(backend, provider.kind, credential))

    async def discover(self, address: str, credential: Secret | None) -> Discovered:
        """Find out what serves at an address that somebody typed. Raises ProbeFailed."""
        return await self._probing(lambda: self._prober.discover(address, credential))

    async def _probing(self, probe: Callable[[], _Told]) -> _Told:
        """In threads of its own, and not for ever: a look-up of a name cannot be cut off."""
        try:
            async with asyncio.timeout(_PROBE_S):
                return await asyncio.get_running_loop().run_in_executor(self._probes, probe)
        except TimeoutError as error:
            text = f"no answer within {_PROBE_S:g} s; check the address and the name server"
            raise ProbeFailed("late", text, seconds=f"{_PROBE_S:g}") from error

    async def ask_counters(self) -> None:
        """Raises Unavailable when the Valkey of the settings does not answer."""
        url = self.settings.state_url.reveal()
        if url:
            counters = ValkeyCounters(url, "asking", SqlUsageSums(self.database), workers=1, timeout_s=_ASKING_S)
            try:
                await counters.ping()
            finally:
                await counters.close()

    async def open(self) -> Installation:
        """Makes the project `default` when there is no project at all. ConfigurationError for a foreign master key."""
        self.pepper = await read_pepper(self.database, self.secret_box, self.pepper)
        if not await self.projects.list():
            with contextlib.suppress(Conflict):  # another process was faster
                await self.projects.add(Project(DEFAULT_PROJECT, "Default", self.clock.now_ms()))
        return self

    async def close(self) -> None:
        self._probes.shutdown(wait=False, cancel_futures=True)
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

    async def present_catalogue(self) -> Catalogue:
        """With what the dates of models make of them today."""
        return (await self.catalogue.load()).on(self.today)

    @property
    def today(self) -> str:
        """The ISO day, of UTC."""
        return iso(self.clock.now_ms())[:10]

    async def preload(self) -> list[str]:
        """The embedded models that are started with the service: the default one, when it is deployed."""
        catalogue = await self.present_catalogue()
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
        return None if provider.api_key_env is None else self.credential_in(provider.api_key_env)

    def credential_in(self, variable: str) -> Secret:
        """The credential in an environment variable that a provider names. Raises NotFound when there is none that it may have; its
        `param` is `api_key_env` when only this process lacks the variable.
        """
        fault = self._credential_variables.fault(variable)
        if fault is not None:
            raise NotFound(
                f"The environment variable {variable} is not read: its name {fault}.",
                hint="name another in api_key_env, or add it to credential_variables, where `llmaas serve` runs too",
            )
        credential = read_credential(variable)
        if credential is None:
            raise NotFound(f"The environment variable {variable} is not set here.", param="api_key_env")
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
        return sum(len(spool.read(file)[0]) for spool in self._spools() for file in spool.files())

    def spooling(self) -> bool:
        """Whether there are any of them."""
        return any(spool.files() for spool in self._spools())

    def unreadable_spools(self) -> list[Path]:
        """Files with usage rows that no database can hold or nobody can read."""
        return [path for spool in self._spools() for path in spool.kept()]

    def _spools(self) -> list[Spool]:
        folders = [self.settings.spool_path, *_numbered_folders(self.settings.spool_path).values()]
        return [Spool(folder) for folder in folders]


def adopt_spools(settings: Settings) -> None:
    """Give the first gateway process what those left behind that are not started any more. To be called before any runs."""
    for number, folder in _numbered_folders(settings.spool_path).items():
        for file in Spool(folder).files() if number >= settings.workers and FileLock(folder / "lock").is_free() else ():
            target = settings.spool_path / file.name
            if not target.exists():  # else at a later start, when that one is in the database
                file.rename(target)


def gateways_left(settings: Settings) -> bool:
    """Whether gateway processes of this data directory run. Of a supervisor that was killed they finish their answers first."""
    folders = [settings.spool_path, *_numbered_folders(settings.spool_path).values()]
    places = [folder / "lock" for folder in folders]
    return any(place.exists() and not FileLock(place).is_free() for place in places)


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
    return migrate(settings.database, lambda: _refuse_to_begin_anew(settings))


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


async def check_place(settings: Settings) -> None:
    """ConfigurationError for what a start would refuse of data directory and database; makes nothing.

    A PostgreSQL that does not answer is passed over: it may be back at the start.
    """
    path, given = settings.master_key_path, settings.master_key_bytes
    if not settings.shared_database and not settings.database_path.exists():
        _refuse_to_begin_anew(settings)
        return
    try:
        known = await asyncio.to_thread(look, settings.database)
    except ConfigurationError as error:
        if settings.shared_database and error.__cause__ is not None:
            return
        raise
    if known is None:
        _refuse_to_begin_anew(settings)
    if not known:
        return
    if given is None and not path.exists():
        raise _no_master_key(path)
    database = Database(settings.database, limit_s=settings.database_timeout_s)
    try:
        await check_master_key(database, SecretBox(given or read_or_make_master_key(path), None if given else path))
    finally:
        await database.close()


def _prepare(settings: Settings) -> bytes:
    """Makes the schema and the master key where there is neither; gives the key."""
    path, given = settings.master_key_path, settings.master_key_bytes
    known = prepare(settings.database, lambda: _refuse_to_begin_anew(settings))
    if not known:
        _refuse_to_begin_anew(settings, schema_there=True)
    if known and given is None and not path.exists():
        raise _no_master_key(path)
    return given or read_or_make_master_key(path)


def _no_master_key(path: Path) -> ConfigurationError:
    """A new one would open nothing that is sealed in the database, and no API key would work."""
    return ConfigurationError(
        [f"master_key: the one of this database is not at {path}; copy it there, or set LLMAAS_MASTER_KEY"]
    )


def _refuse_to_begin_anew(settings: Settings, *, schema_there: bool = False) -> None:
    """ConfigurationError when the data directory is of an installation that had a database: the empty one at hand is not it.

    `schema_there`: a first start that was cut short leaves the schema and the master key, and goes on.
    """
    folders = [settings.spool_path, *_numbered_folders(settings.spool_path).values()]
    traces = [settings.spool_path / "lock", settings.data_dir / "workers"]
    if not settings.shared_database:
        traces.append(database_lock(settings))
        if not schema_there:
            # On PostgreSQL the key may have been put there before the first start, the same on every host.
            traces.append(settings.master_key_path)
    left = [path for path in traces if path.exists()] + [file for folder in folders for file in Spool(folder).files()]
    if left:
        gone = not settings.shared_database and not settings.database_path.exists()
        raise ConfigurationError(
            [
                (
                    f"database {settings.database_shown} is {'not there' if gone else 'empty'}, but {left[-1]} says that there was one:"
                    " put the database back, or restore a backup (`llmaas restore`)."
                    f" To begin anew, move {', '.join(map(str, left))} away"
                )
            ]
        )


def database_lock(settings: Settings) -> Path:
    """What a gateway locks beside an SQLite database."""
    return settings.database_path.with_name(f"{settings.database_path.name}.lock")


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
