"""`/admin/fleet/add`: a machine by its address. It is asked what it is and serves, and what is chosen of that is published."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any
from urllib.parse import urlsplit

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import Principal, ThePrincipal
from llmaas.admin_api.fleet import check_secret, put_new, store_secret
from llmaas.admin_api.machines import BackendTest, ask, served_by
from llmaas.admin_api.shapes import PathId
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.form_values import whole_numbers
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.console.pages.offers import Offer, declared_by, offers_of, read_offers
from llmaas.control.context import Services, TheServices
from llmaas.domain.fleet import Fleet, FleetState
from llmaas.domain.models import Backend, ModelKind, Provider, ProviderKind
from llmaas.domain.permissions import Permission
from llmaas.engines.probe import ProbeFailed
from llmaas.errors import NotFound
from llmaas.settings import Secret

_ASK = {"permission": Permission.FLEET_CHANGE}
_CHANGE = {"permission": Permission.FLEET_CHANGE, **FORM}
_OWNER = "console/add-machine"
"""What a credential is sealed for on its way through the browser from the first form to the second."""


@get("/admin/fleet/add", opt=_ASK)
async def new_machine(page: ThePage) -> Response[Any]:
    return page.render("fleet/find.html", fields=Fields(page.t))


@post("/admin/fleet/add", opt=_CHANGE, status_code=200)
async def add_machine(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    """Without `base_url` it looks for a server, with it the machine is put into the fleet."""
    fields = await read_fields(request, page.t)
    if fields.value("base_url"):
        return await _publish(page, services, principal, fields)
    fields.need("address")
    secret = fields.value("secret").strip()
    if secret:
        with fields.noting("secret"):
            check_secret(secret)
    if not fields.good:
        return page.render("fleet/find.html", status=422, fields=fields)
    try:
        there = await services.discover(fields.value("address"), Secret(secret) if secret else None)
    except ProbeFailed as error:
        # What other pages say of a credential names the provider that has it; here the field for it stands below.
        of_secret = error.reason in {"asks_credential", "refuses_credential"}
        where = "secret" if of_secret else "address"
        fields.faults[where] = page.t(f"fleet.{error.reason}" if of_secret else f"probe.{error.reason}", **error.facts)
        return page.render("fleet/find.html", status=422, fields=fields)
    state = await services.fleet.state()
    fleet = state.fleet
    name = _free_name(urlsplit(there.base_url).hostname or "machine", fleet)
    sealed = urlsafe_b64encode(services.sealer.seal(_OWNER, secret)).decode() if secret else ""
    found = {"base_url": there.base_url, "kind": there.kind.value, "server": there.found.server, "sealed": sealed}
    fields = Fields(page.t, {**found, "id": name, "provider": "" if secret else _likely_provider(state, there.kind)})
    return _offer(page, fields, fleet, offers_of(served_by(there.found), fleet))


@get("/admin/fleet/machines/{backend_id:str}/publish", opt=_ASK)
async def offer_more(page: ThePage, services: TheServices, backend_id: PathId) -> Response[Any]:
    """What it serves and is not published yet."""
    fleet = (await services.fleet.state()).fleet
    backend, provider = _machine(fleet, backend_id)
    tested = await ask(services, provider, backend)
    published = {one.root for one in fleet.deployments if one.backend_id == backend_id}
    served = [one for one in tested.served if one.name not in published]
    return _more(page, Fields(page.t), backend, offers_of(served, fleet), tested)


@post("/admin/fleet/machines/{backend_id:str}/publish", opt=_CHANGE)
async def publish_more(
    page: ThePage, services: TheServices, principal: ThePrincipal, backend_id: PathId, request: Request[Any, Any, Any]
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fleet = (await services.fleet.state()).fleet
    backend, provider = _machine(fleet, backend_id)
    offers = read_offers(fields, fleet)
    chosen = [offer for offer in offers if offer.is_chosen]
    if not chosen:
        fields.faults[""] = page.t("fleet.choose_one")
    if fields.good:
        with fields.noting():
            await put_new(services, principal, declared_by(offers, backend_id, provider.id))
            path = f"/admin/fleet/machines/{backend_id}"
            return page.redirect(
                path, flash=page.t.form("fleet.models_published", len(chosen)), n=len(chosen), name=backend_id
            )
    return _more(page, fields, backend, offers, None)


async def _publish(page: Page, services: Services, principal: Principal, fields: Fields) -> Response[Any]:
    fleet = (await services.fleet.state()).fleet
    offers = read_offers(fields, fleet)
    fields.need("id")
    numbers = whole_numbers(fields, ["max_concurrency"])
    secret = _opened(services, fields)
    backend_id, provider_id = fields.value("id").strip(), fields.value("provider")
    is_new = not provider_id
    provider_id = provider_id or _free_provider(backend_id, fleet)
    if secret and not is_new:
        fields.faults["provider"] = page.t("fleet.secret_needs_provider")
    backend = {"id": backend_id, "provider": provider_id, "base_url": fields.value("base_url"), **numbers}
    values: dict[str, list[dict[str, Any]]] = {
        "providers": [{"id": provider_id, "kind": fields.value("kind")}] if is_new else [],
        "backends": [backend],
        **declared_by(offers, backend_id, provider_id),
    }
    if fields.good:
        with fields.noting("id"):
            await put_new(services, principal, values)
            if secret:
                await store_secret(services, principal, provider_id, secret)
            count = sum(offer.is_chosen for offer in offers)
            return page.redirect(
                f"/admin/fleet/machines/{backend_id}",
                flash=page.t.form("fleet.machine_added", count),
                name=backend_id,
                n=count,
            )
    return _offer(page, fields, fleet, offers)


def _offer(page: Page, fields: Fields, fleet: Fleet, offers: list[Offer]) -> Response[Any]:
    kind = fields.value("kind")
    return page.render(
        "fleet/offer.html",
        status=200 if fields.good else 422,
        fields=fields,
        offers=offers,
        kinds=list(ModelKind),
        providers=[provider.id for provider in fleet.providers if provider.kind == kind],
    )


def _more(
    page: Page, fields: Fields, backend: Backend, offers: list[Offer], tested: BackendTest | None
) -> Response[Any]:
    return page.render(
        "fleet/publish.html",
        status=200 if fields.good else 422,
        fields=fields,
        backend=backend,
        offers=offers,
        kinds=list(ModelKind),
        tested=tested,
    )


def _machine(fleet: Fleet, backend_id: str) -> tuple[Backend, Provider]:
    backend = next((one for one in fleet.backends if one.id == backend_id), None)
    if backend is None:
        raise NotFound(f"There is no backend `{backend_id[:200]}`.", param="id")
    return backend, next(one for one in fleet.providers if one.id == backend.provider_id)


def _opened(services: Services, fields: Fields) -> str:
    sealed = fields.value("sealed")
    if not sealed:
        return ""
    try:
        return services.sealer.open(_OWNER, urlsafe_b64decode(sealed))
    except ValueError:
        fields.faults[""] = fields.t("fleet.secret_lost")
        return ""


def _likely_provider(state: FleetState, kind: ProviderKind) -> str:
    """Never one with a credential: that would go to a server which nobody has said it is for."""
    for provider in state.fleet.providers:
        if provider.kind is kind and not provider.api_key_env and provider.id not in state.with_secret:
            return provider.id
    return ""


def _free_provider(wish: str, fleet: Fleet) -> str:
    return _free(wish, {provider.id for provider in fleet.providers})


def _free_name(host: str, fleet: Fleet) -> str:
    """The host's own name, or its address, and a number if that is taken."""
    label = host if host.replace(".", "").isdigit() or ":" in host else host.partition(".")[0]
    return _free(label, {backend.id for backend in fleet.backends})


def _free(wish: str, taken: set[str]) -> str:
    return next(
        name for number in range(1, 10_000) if (name := wish if number == 1 else f"{wish}-{number}") not in taken
    )


ROUTES: tuple[HTTPRouteHandler, ...] = (new_machine, add_machine, offer_more, publish_more)
