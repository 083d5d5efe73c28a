"""Wires the pages and the admin API of a gateway process to its installation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmaas.control.status.models import Live
from llmaas.control.status.process import System
from llmaas.control.status.public import Platform
from llmaas.control.status.settings import SettingLine
from llmaas.datadir import Installation
from llmaas.net.asgi import ASGIApp
from llmaas.storage.standing import hold_to
from llmaas.storage.workers import SqlWorkerStore
from llmaas.web.throttle import AddressThrottle, Throttle


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
    from llmaas.console.application import build_admin
    from llmaas.control.accounts.oidc import OpenIdConfig, OpenIdConnect
    from llmaas.control.accounts.second_factor import SecondFactor
    from llmaas.control.accounts.sign_in import SignIn
    from llmaas.control.context import Services

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
        hold_to=hold_to,
        tokens=installation.tokens,
        invitations=installation.invitations,
        keys=installation.keys,
        fleet=installation.catalogue,
        audit=installation.audit,
        sealer=installation.secret_box,
        usage=installation.usage,
        credit=installation.credit,
        budgets=installation.budgets,
        alerts=installation.alerts,
        teller=installation.courier,
        alert_tests=Throttle(clock, burst=3, pause_s=20.0),
        guesses=AddressThrottle(clock, burst=100, pause_s=0.5),
        webhook_secret=installation.webhooks.secret,
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
