"""What serves where: asking backends what they are, finding out what is at an address, and which workers run which revision."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from llmaas.admin_api.shapes import Form, PathId
from llmaas.clock import iso
from llmaas.control.context import Services, TheServices
from llmaas.domain.models import Backend, Provider, ProviderKind
from llmaas.domain.permissions import Permission
from llmaas.engines.probe import Found, ProbeFailed
from llmaas.errors import InvalidRequest, NotFound
from llmaas.settings import Secret


class ServedModel(msgspec.Struct, frozen=True):
    """`name`: the server's own. `max_model_len`, `owned_by`: as the server says; null when it does not."""

    name: str
    max_model_len: int | None = None
    owned_by: str | None = None


class BackendTest(msgspec.Struct, frozen=True):
    """`models`: the backend's own names; `served`: the same with what it says of each. `error`: what is wrong and what to
    do; null when it answers as it should.
    `reason`: the same as a name, with its `facts`.
    """

    backend: str
    ok: bool
    server: str | None = None
    models: list[str] = []
    served: list[ServedModel] = []
    error: str | None = None
    reason: str | None = None
    facts: dict[str, str] = {}


class Address(Form, frozen=True):
    """`address`: a URL, a host, or a host with its port. `secret`: what the server wants as Bearer; it is not stored."""

    address: Annotated[str, msgspec.Meta(max_length=2_000)]
    secret: Annotated[str, msgspec.Meta(max_length=16_384)] | None = None


class DiscoveredView(msgspec.Struct, frozen=True):
    """What a provider of that `kind` and a backend with that `base_url` would serve."""

    base_url: str
    kind: ProviderKind
    server: str
    models: list[str]
    served: list[ServedModel]


class WorkerView(msgspec.Struct, frozen=True):
    """A process that answers requests. `revision`: of the catalogue that it runs."""

    id: str
    host: str
    pid: int
    started: str
    seen: str
    revision: int


@post("/api/v1/providers/{provider_id:str}/test", opt={"permission": Permission.FLEET_CHANGE}, status_code=200)
async def check_provider(services: TheServices, provider_id: PathId) -> list[BackendTest]:
    """Connect to each backend of a provider; says what it is and what it serves."""
    fleet = (await services.fleet.state()).fleet
    provider = next((provider for provider in fleet.providers if provider.id == provider_id), None)
    if provider is None:
        raise NotFound(f"There is no provider `{provider_id}`.", param="id")
    backends = [backend for backend in fleet.backends if backend.provider_id == provider_id]
    return list(await asyncio.gather(*(ask(services, provider, backend) for backend in backends)))


@post("/api/v1/discover", opt={"permission": Permission.FLEET_CHANGE}, status_code=200)
async def discover(services: TheServices, data: JSONBody[Address]) -> DiscoveredView:
    """Find out what serves at an address, before it is in the fleet. Changes nothing."""
    try:
        there = await services.discover(data.address, Secret(data.secret) if data.secret else None)
    except ProbeFailed as error:
        raise InvalidRequest(f"The address {error}.", param="address") from error
    found = there.found
    return DiscoveredView(there.base_url, there.kind, found.server, list(found.models), served_by(found))


@get("/api/v1/workers", opt={"permission": Permission.FLEET_READ})
async def list_workers(services: TheServices) -> list[WorkerView]:
    """The processes that answer requests, with the revision of the catalogue that each runs."""
    return [
        WorkerView(
            worker.id, worker.host, worker.pid, iso(worker.started_ms), iso(worker.seen_ms), worker.catalogue_revision
        )
        for worker in await services.workers()
    ]


async def ask(services: Services, provider: Provider, backend: Backend) -> BackendTest:
    """What one backend says of itself."""
    if provider.kind is ProviderKind.EMBEDDED:
        return BackendTest(backend.id, ok=True, server="engine of this installation")
    try:
        found = await services.look_at(provider, backend)
    except ProbeFailed as error:
        services.live.found(backend, answers=False)
        return BackendTest(backend.id, ok=False, error=str(error), reason=error.reason, facts=error.facts)
    except NotFound as error:
        return BackendTest(backend.id, ok=False, error=str(error), reason="no_credential")
    services.live.found(backend, answers=True)
    return BackendTest(backend.id, ok=True, server=found.server, models=list(found.models), served=served_by(found))


def served_by(found: Found) -> list[ServedModel]:
    return [ServedModel(one.name, one.window, one.owner or None) for one in found.served]


ROUTES: tuple[HTTPRouteHandler, ...] = (check_provider, discover, list_workers)
