"""The providers' pages: made, tested and changed by forms; a credential goes in and never comes out."""

from __future__ import annotations

import pytest

from llmaas.domain.fleet import FleetState
from llmaas.domain.models import Provider, ProviderKind
from llmaas.storage.catalogue import SqlCatalogueStore
from tests.console.lab import Lab
from tests.console.reading import Reader, Shown, values_of
from tests.console.site import PEPPER

SECRET = "sk-s3cret-of-the-provider"


async def _state(lab: Lab) -> FleetState:
    return await lab.admin.services.fleet.state()


async def _provider(lab: Lab, provider_id: str) -> Provider:
    found = (await _state(lab)).fleet.find("provider", provider_id)
    assert isinstance(found, Provider)
    return found


async def _store(reader: Reader, page: Shown, secret: str) -> Shown:
    csrf = values_of(page.form())["csrf"]
    return await reader.post("/admin/providers/lab/secret", {"csrf": csrf, "secret": secret})


async def test_a_provider_is_added_with_its_credential(lab: Lab) -> None:
    reader = await lab.reader("root")
    form = await reader.get("/admin/providers/new")
    made = await reader.send(form, id="outside", kind="openai", secret=SECRET, extra_parameters="top_k, min_p")
    assert (made.status, made.path, made.heading) == (200, "/admin/providers/outside", "outside")
    provider, state = await _provider(lab, "outside"), await _state(lab)
    assert (provider.kind, provider.extra_parameters, provider.cancel_stops_billing) == (
        ProviderKind.OPENAI,
        frozenset({"top_k", "min_p"}),
        True,
    )
    assert state.with_secret == {"outside"}
    sealed = (await SqlCatalogueStore(lab.admin.database).sealed_secrets())["outside"]
    assert lab.admin.services.sealer.open("outside", sealed) == SECRET
    assert PEPPER not in sealed
    for path in ("/admin/providers", "/admin/providers/outside", "/admin/providers/outside/edit", "/admin/audit"):
        answer = await reader.browser.http.get(path, headers={"accept": "text/html"})
        assert (answer.status_code, SECRET in answer.text) == (200, False)
    assert (await reader.get("/admin/providers")).row("outside")["Credential"] == "Stored"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "lab"),
        ("id", "a\nb"),
        ("secret", "é"),
        ("api_key_env", "1 2"),
        ("api_key_env", "DATABASE_URL"),
        ("kind", "poem"),
    ],
)
async def test_what_is_wrong_stands_beside_its_field(lab: Lab, field: str, value: str) -> None:
    reader = await lab.reader("root")
    before = await _state(lab)
    form = await reader.get("/admin/providers/new")
    again = await reader.send(form, **{"id": "outside", field: value})
    assert (again.status, bool(again.fault("id" if field == "kind" else field))) == (422, True) or again.fault("kind")
    assert SECRET not in again.text
    assert await _state(lab) == before


async def test_a_credential_is_replaced_and_forgotten(lab: Lab) -> None:
    reader = await lab.reader("root")
    page = await reader.get("/admin/providers/lab")
    assert (await _store(reader, page, " ")).status == 422
    stored = await _store(reader, page, SECRET)
    assert (stored.status, (await _state(lab)).with_secret) == (200, frozenset({"lab"}))
    assert SECRET not in stored.text
    forgotten = await reader.send(await reader.get("/admin/providers/lab/forget-secret"))
    assert (forgotten.status, (await _state(lab)).with_secret) == (200, frozenset())


async def test_all_machines_of_a_provider_are_tested(lab: Lab) -> None:
    reader = await lab.reader("root")
    thing = await reader.get("/admin/fleet/machines/ma01/edit")
    await reader.send(thing, base_url="http://127.0.0.1:1/v1")
    tested = await reader.send(await reader.get("/admin/providers/lab"))
    assert tested.status == 200
    assert "Nothing listens" in tested.row("ma01")["Test"]


async def test_a_provider_is_changed_unless_somebody_else_did_meanwhile(lab: Lab) -> None:
    reader = await lab.reader("root")
    form = await reader.get("/admin/providers/lab/edit")
    changed = await reader.send(form, cancel_stops_billing=None, api_key_env="LLMAAS_PROVIDER_LAB_KEY")
    provider = await _provider(lab, "lab")
    assert (changed.status, provider.cancel_stops_billing, provider.api_key_env) == (
        200,
        False,
        "LLMAAS_PROVIDER_LAB_KEY",
    )
    late = await reader.send(form, api_key_env="LLMAAS_PROVIDER_OTHER_KEY")
    assert (late.status, (await _provider(lab, "lab")).api_key_env) == (422, "LLMAAS_PROVIDER_LAB_KEY")


async def test_callers_of_a_provider_are_told_why_they_are_refused_or_not(lab: Lab) -> None:
    reader = await lab.reader("root")
    for word, declared, told in (("no", False, "No"), ("yes", True, "Yes"), ("", None, "Yes")):
        page = await reader.send(await reader.get("/admin/providers/lab/edit"), explain_refusals=word)
        assert (page.status, (await _provider(lab, "lab")).explain_refusals) == (200, declared)
        assert told in page.facts()["Callers are told why a request is refused"]
        assert values_of((await reader.get("/admin/providers/lab/edit")).form())["explain_refusals"] == word


async def test_an_outside_provider_is_never_quoted_and_the_form_says_so(lab: Lab) -> None:
    reader = await lab.reader("root")
    form = await reader.get("/admin/providers/new")
    again = await reader.send(form, id="outside", kind="openai", explain_refusals="yes")
    assert (again.status, again.fault("explain_refusals")) == (
        422,
        "An outside service is never quoted. For a server of your own, choose its kind.",
    )
    made = await reader.send(again, explain_refusals="")
    assert (made.status, (await _provider(lab, "outside")).explains_refusals) == (200, False)


async def test_a_provider_with_machines_stays(lab: Lab) -> None:
    reader = await lab.reader("root")
    kept = await reader.send(await reader.get("/admin/providers/lab/remove"))
    assert (kept.status, (await _provider(lab, "lab")).id) == (422, "lab")
    await reader.send(await reader.get("/admin/fleet/machines/ma01/remove"))
    gone = await reader.send(await reader.get("/admin/providers/lab/remove"))
    assert (gone.status, (await _state(lab)).fleet.providers) == (200, ())


@pytest.mark.parametrize("name", ["owner", "viewer"])
async def test_A01_only_an_admin_sees_providers(lab: Lab, name: str) -> None:
    reader = await lab.reader(name)
    for path in ("/admin/providers", "/admin/providers/lab", "/admin/providers/new", "/admin/providers/lab/edit"):
        assert (await reader.get(path)).status == 403
