"""What the admin API is handed by the composition root. A controller takes it as its parameter `services`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litestar.di import NamedDependency

from llmaas.clock import Clock
from llmaas.control.accounts.oidc import OpenIdConnect
from llmaas.control.accounts.passwords import Passwords
from llmaas.control.accounts.second_factor import Sealer
from llmaas.control.accounts.sign_in import SignIn
from llmaas.control.status.models import Live
from llmaas.control.status.process import System
from llmaas.control.status.public import Platform
from llmaas.control.status.settings import SettingLine
from llmaas.domain.alerts import AlertStore, Teller
from llmaas.domain.audit import AuditLog
from llmaas.domain.credit import CreditStore
from llmaas.domain.fleet import FleetStore
from llmaas.domain.invitations import InvitationStore
from llmaas.domain.keys import KeyRegister
from llmaas.domain.members import MemberStore
from llmaas.domain.models import Backend, Provider
from llmaas.domain.ports import BudgetStore
from llmaas.domain.projects import ProjectStore
from llmaas.domain.sessions import SessionStore
from llmaas.domain.standing import HoldTo
from llmaas.domain.tokens import TokenStore
from llmaas.domain.usage import UsageReader
from llmaas.domain.users import UserStore
from llmaas.domain.workers import Worker
from llmaas.engines.probe import Discovered, Found
from llmaas.ids import IdSource
from llmaas.settings import Secret
from llmaas.web.throttle import Throttle


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`pepper` keys the hashes of tokens. `public_url`: where browsers find this service, "" when it is not told.

    `look_at` asks a backend of the fleet what it is and serves, `discover` an address that somebody typed; both raise ProbeFailed.
    `open_id`: None when no issuer is set. `api_document`: the OpenAPI document of `/v1`.
    """

    clock: Clock
    ids: IdSource
    pepper: bytes
    public_url: str
    session_idle_ms: int
    users: UserStore
    projects: ProjectStore
    members: MemberStore
    sessions: SessionStore
    hold_to: HoldTo
    tokens: TokenStore
    invitations: InvitationStore
    keys: KeyRegister
    fleet: FleetStore
    audit: AuditLog
    sealer: Sealer
    usage: UsageReader
    credit: CreditStore
    budgets: BudgetStore
    alerts: AlertStore
    teller: Teller
    alert_tests: Throttle
    guesses: Throttle
    webhook_secret: Callable[[str], str]
    live: Live
    platform: Platform
    system: System
    settings: Sequence[SettingLine]
    api_document: Mapping[str, Any]
    look_at: Callable[[Provider, Backend], Awaitable[Found]]
    discover: Callable[[str, Secret | None], Awaitable[Discovered]]
    workers: Callable[[], Awaitable[list[Worker]]]
    currency: str
    passwords: Passwords
    sign_in: SignIn
    open_id: OpenIdConnect | None


TheServices = NamedDependency[Services]
"""How a handler declares its parameter `services`."""
