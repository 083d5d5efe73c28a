"""The fleet's pages: a machine found by its address and published, tested, rested, changed and removed by forms."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any, Self

import pytest

from llmaas.domain.audit import AuditFilter
from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Backend, Model, Provider, ProviderKind
from llmaas.domain.workers import Worker
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.workers import SqlWorkerStore
from tests.console.lab import HOSTILE, Lab
from tests.console.reading import Reader, Shown, values_of, words
from tests.console.site import TEST
from tests.fakes.behaviour import Behaviour
from tests.fakes.upstream import FakeUpstream

MACHINE = "/admin/fleet/machines/ma01"
MODEL = "/admin/fleet/models/granite3.3%3A8b"


async def _press(reader: Reader, page: Shown, path: str, **values: Any) -> Shown:
    """Send what a button of the page sends that is not in its first form."""
    return await reader.post(path, {"csrf": values_of(page.form())["csrf"], **values})


async def _fleet(lab: Lab) -> Fleet:
    return (await lab.admin.services.fleet.state()).fleet


async def _model(lab: Lab, model_id: str) -> Model:
    found = (await _fleet(lab)).find("model", model_id)
    assert isinstance(found, Model)
    return found


async def _backend(lab: Lab, backend_id: str) -> Backend:
    found = (await _fleet(lab)).find("backend", backend_id)
    assert isinstance(found, Backend)
    return found


def _address(upstream: FakeUpstream) -> str:
    return upstream.base_url.removeprefix("http://").removesuffix("/v1")


async def test_machines_models_and_processes_are_shown_with_their_state(lab: Lab) -> None:
    services = lab.admin.services
    (target,) = services.live.catalogue.entries["granite3.3:8b"].targets
    services.live.load.begin(target)
    services.live.health.failed(target)
    await lab.asked(*(lab.row(n, days_ago=0.001 * n) for n in range(1, 5)))
    now_ms = lab.now_ms
    await SqlWorkerStore(lab.admin.database).beat(Worker("w2", "here", 7, now_ms, now_ms, 0))
    page = await (await lab.reader("root")).get("/admin/fleet")
    machine, model = page.row("ma01"), page.row("granite3.3:8b")
    assert (machine["State"], machine["In flight"], machine["Output speed"]) == ("Partly failing", "1", "100 tokens/s")
    assert (model["State"], model["Machines"], model["First token"]) == ("Failing", "ma01", "200 ms")
    assert page.row("idle")["State"] == "Unused"
    assert page.row("here 7")["Revision"].startswith("taking over")
    assert HOSTILE not in page.text


async def test_only_the_part_that_changes_is_fetched_again(lab: Lab) -> None:
    reader = await lab.reader("root")
    answer = await reader.browser.http.get("/admin/fleet", headers={"x-fragment": "1", "accept": "text/html"})
    assert answer.status_code == 200
    assert "<html" not in answer.text
    assert "ma01" in answer.text


async def test_a_machine_is_added_by_its_address(lab: Lab) -> None:
    reader = await lab.reader("root")
    async with FakeUpstream(models=("granite3.3:8b", "new-embed", "left")) as upstream:
        page = await reader.send(await reader.get("/admin/fleet/add"), address=_address(upstream), secret="")
        assert page.status == 200
        assert "Ollama 0.40.2" in page.text
        made = await reader.send(
            page, id="ma09", take_0="on", take_1="on", name_1="embed-2", kind_1="embedding", max_concurrency="4"
        )
        assert (made.status, made.path, made.heading) == (200, "/admin/fleet/machines/ma09", "ma09")
        assert made.links["Price of embed-2"] == "/admin/fleet/edit-model/embed-2"
        assert "Price of granite3.3:8b" not in made.links
        backend = await _backend(lab, "ma09")
        assert (backend.base_url, backend.max_concurrency) == (upstream.base_url.removesuffix("/v1"), 4)
        fleet = await _fleet(lab)
        assert {(one.model_id, one.root) for one in fleet.deployments if one.backend_id == "ma09"} == {
            ("granite3.3:8b", "granite3.3:8b"),
            ("embed-2", "new-embed"),
        }
        assert (await _model(lab, "embed-2")).kind == "embedding"
        assert (await _model(lab, "granite3.3:8b")).price is not None
        more = await reader.get("/admin/fleet/machines/ma09/publish")
        assert "left" in more.text
        assert "new-embed" not in more.text
        assert (await reader.send(more, take_0=None)).status == 422
        published = await reader.send(more, take_0="on", name_0="third")
        assert "1 model of ma09 is published." in published.text
        assert "third" in published.links
        assert "left" in [row["Engine’s name"] for row in published.rows()]


async def test_a_credential_goes_from_form_to_form_sealed(lab: Lab) -> None:
    reader = await lab.reader("root")
    async with FakeUpstream(api_key="s3cret-of-the-machine") as upstream:
        start = await reader.get("/admin/fleet/add")
        for path in ("/api/version", "/v1/models"):
            upstream.script(Behaviour(status=401), model=path)
        refused = await reader.send(start, address=_address(upstream), secret="wrong")
        assert (refused.status, "credential" in refused.fault("secret")) == (422, True)
        page = await reader.send(start, address=_address(upstream), secret="s3cret-of-the-machine")
        assert page.status == 200
        sealed = values_of(page.form())["sealed"]
        assert "s3cret" not in sealed
        broken = await reader.send(page, id="ma09", sealed="x" + sealed[1:])
        assert broken.status == 422
        made = await reader.send(page, id="ma09", take_0="on")
        assert made.status == 200
        state = await lab.admin.services.fleet.state()
        assert state.with_secret == {"ma09"}
        assert upstream.requests[-1].credential == "provider"


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("", "Fill this in."),
        ("127.0.0.1:1", "Nothing listens on 127.0.0.1:1. Start the server"),
        ("169.254.169.254", "upstream_allow"),
        ("a b", "no address"),
        ("http://", "no address"),
        ("http://[x", "no address"),
        ("http://h:99999", "no address"),
    ],
)
async def test_an_address_where_nothing_is_says_what_to_do(lab: Lab, address: str, told: str) -> None:
    reader = await lab.reader("root")
    page = await reader.send(await reader.get("/admin/fleet/add"), address=address)
    assert (page.status, told in page.fault("address")) == (422, True)
    reader = await lab.reader("root", "fr")
    translated = await reader.send(await reader.get("/admin/fleet/add"), address=address)
    assert (translated.status, translated.fault("address") in {"", page.fault("address")}) == (422, False)


async def test_a_name_that_is_taken_is_refused_and_nothing_done(lab: Lab) -> None:
    reader = await lab.reader("root")
    before = await _fleet(lab)
    async with FakeUpstream() as upstream:
        page = await reader.send(await reader.get("/admin/fleet/add"), address=_address(upstream))
        again = await reader.send(page, id="ma01", take_0="on", name_0="other")
        assert (again.status, "ma01" in again.text) == (422, True)
        again = await reader.send(page, id="ma09", take_0="on", name_0=" ")
        assert (again.status, again.fault("name_0")) == (422, "Fill this in.")
    assert await _fleet(lab) == before


async def test_a_machine_is_tested(lab: Lab) -> None:
    reader = await lab.reader("root")
    await lab.admin.services.fleet.apply(
        Fleet(backends=(Backend("gone", "lab", "http://127.0.0.1:1/v1", "gone", "vllm"),)),
        now_ms=1,
        prune=False,
        by=TEST,
    )
    page = await reader.get("/admin/fleet/machines/gone")
    tested = await reader.send(page)
    assert (tested.status, "Nothing listens" in tested.text) == (200, True)


async def test_what_a_test_finds_is_the_state_that_is_shown(lab: Lab) -> None:
    reader = await lab.reader("root")
    live = lab.admin.services.live
    (target,) = live.catalogue.entries["granite3.3:8b"].targets
    backend = target.backend
    live.found(backend, answers=False)
    assert (await reader.get("/admin/fleet")).row("granite3.3:8b")["State"] == "Failing"
    live.found(backend, answers=True)
    assert (await reader.get("/admin/fleet")).row("granite3.3:8b")["State"] == "Working"


@pytest.mark.parametrize("variable", [None, "LLMAAS_PROVIDER_LAB_KEY"])
async def test_a_new_machine_gets_no_credential_unasked(lab: Lab, variable: str | None) -> None:
    reader = await lab.reader("root")
    provider = Provider("paid", ProviderKind.OLLAMA, api_key_env=variable)
    await lab.admin.services.fleet.apply(Fleet(providers=(provider,)), now_ms=1, prune=False, by=TEST)
    async with FakeUpstream(models=("granite3.3:8b",)) as upstream:
        page = await reader.send(await reader.get("/admin/fleet/add"), address=_address(upstream), secret="")
    assert values_of(page.form())["provider"] == ("" if variable else "paid")


async def test_a_machine_is_taken_out_of_service_and_back(lab: Lab) -> None:
    reader = await lab.reader("root")
    asked = await reader.get(f"{MACHINE}/out-of-service")
    assert "granite3.3:8b" in asked.text
    out = await reader.send(asked)
    assert (out.status, (await _backend(lab, "ma01")).in_service) == (200, False)
    assert out.facts()["State"] == "Out of service"
    back = await _press(reader, out, f"{MACHINE}/in-service")
    assert (back.status, (await _backend(lab, "ma01")).in_service) == (200, True)


async def test_a_machine_of_any_name_is_taken_out_of_service(lab: Lab) -> None:
    root = await lab.admin.user("ruth", admin=True)
    headers = {"authorization": await lab.admin.token(root)}
    body = {"provider": "lab", "base_url": "http://10.0.0.7:8000/v1"}
    client = lab.admin.client()
    made = await client.call("PUT", "/fleet/backends/%E6%97%A5%E6%9C%AC", body, **headers)
    assert made.status_code in {200, 201}, made.text
    reader = await lab.reader("root")
    out = await reader.send(await reader.get("/admin/fleet/machines/%E6%97%A5%E6%9C%AC/out-of-service"))
    assert (out.status, out.facts()["State"]) == (200, "Out of service")


async def test_a_machine_is_changed_unless_somebody_else_did_meanwhile(lab: Lab) -> None:
    reader = await lab.reader("root")
    form = await reader.get(f"{MACHINE}/edit")
    wrong = await reader.send(form, max_concurrency="none", base_url="ftp://x")
    assert (wrong.status, bool(wrong.fault("max_concurrency"))) == (422, True)
    wrong = await reader.send(form, base_url="ftp://x")
    assert (wrong.status, bool(wrong.fault("base_url"))) == (422, True)
    changed = await reader.send(form, max_concurrency="8", machine_name="rack 1")
    assert (changed.status, changed.path) == (200, MACHINE)
    backend = await _backend(lab, "ma01")
    assert (backend.max_concurrency, backend.machine_name, backend.base_url) == (8, "rack 1", "http://10.0.0.1:8000/v1")
    late = await reader.send(form, max_concurrency="9")
    assert (late.status, "Somebody else changed this" in late.text) == (422, True)
    assert (await _backend(lab, "ma01")).max_concurrency == 8


async def test_a_machine_is_removed_with_what_it_serves(lab: Lab) -> None:
    reader = await lab.reader("root")
    gone = await reader.send(await reader.get(f"{MACHINE}/remove"))
    assert (gone.status, gone.path) == (200, "/admin/fleet")
    fleet = await _fleet(lab)
    assert (fleet.backends, fleet.deployments) == ((), ())
    assert len(fleet.models) == 4
    acts = [line.act.action for line in await lab.admin.services.audit.page(AuditFilter(), before=None, limit=5)]
    assert {"backend.remove", "deployment.remove"} <= set(acts)
    assert (await reader.get(MACHINE)).status == 404


async def test_a_model_is_changed_and_what_the_form_does_not_know_stays(lab: Lab) -> None:
    reader = await lab.reader("root")
    before = await _model(lab, "granite3.3:8b")
    card = {**before.card, "own_key": {"deep": [1, 2]}}
    await lab.admin.services.fleet.apply(
        Fleet(models=(dataclasses.replace(before, card=card),)), now_ms=1, prune=False, by=TEST
    )
    form = await reader.get("/admin/fleet/edit-model/granite3.3%3A8b")
    same = await reader.send(form)
    assert (same.status, await _model(lab, "granite3.3:8b")) == (200, dataclasses.replace(before, card=card))
    versions = await lab.admin.services.fleet.price_versions()
    changed = await reader.send(
        await reader.get("/admin/fleet/edit-model/granite3.3%3A8b"),
        aliases="granite\ng3",
        price_output="9,50",
        card_languages="en, fr",
        phase="deprecated",
        retires="2027-01-31",
        successor="idle",
    )
    assert changed.status == 200
    after = await _model(lab, "granite3.3:8b")
    assert (after.aliases, after.card["languages"], after.card["own_key"]) == (
        ("granite", "g3"),
        ["en", "fr"],
        {"deep": [1, 2]},
    )
    assert (after.lifecycle.phase, after.lifecycle.retires, after.lifecycle.successor) == (
        "deprecated",
        "2027-01-31",
        "idle",
    )
    assert after.price is not None
    assert after.price.output == 9_500_000_000
    assert len(await lab.admin.services.fleet.price_versions()) == len(versions) + 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_model_len", "many"),
        ("price_input", "-1"),
        ("price_output", "1.0000000001"),
        ("card_energy_kwh_per_mtok", "a lot"),
        ("aliases", "idle"),
        ("successor", "granite3.3:8b"),
        ("retires", "2026-02-31"),
    ],
)
async def test_what_is_wrong_with_a_model_is_told_and_nothing_is_lost(lab: Lab, field: str, value: str) -> None:
    reader = await lab.reader("root")
    before = await _fleet(lab)
    form = await reader.get("/admin/fleet/edit-model/granite3.3%3A8b")
    again = await reader.send(form, **{"owned_by": "Somebody", field: value})
    assert again.status == 422
    assert again.fault(field) or again.root.find(".//*[@role='alert']") is not None
    assert values_of(again.form())["owned_by"] == "Somebody"
    assert await _fleet(lab) == before


async def test_a_model_is_removed_unless_something_needs_it(lab: Lab) -> None:
    reader = await lab.reader("root")
    kept = await reader.send(await reader.get("/admin/fleet/remove-model/granite3.3%3A8b"))
    assert (kept.status, "tier `basic`" in kept.text) == (422, True)
    gone = await reader.send(await reader.get("/admin/fleet/remove-model/embed"))
    assert (gone.status, (await _fleet(lab)).find("model", "embed")) == (200, None)


async def test_a_deployment_is_changed_and_ended(lab: Lab) -> None:
    reader = await lab.reader("root")
    path = "/admin/fleet/deployments/org/coder%3A1.5b%40ma01"
    form = await reader.get(path)
    assert (await reader.send(form, weight="0")).fault("weight")
    assert (await reader.send(form, weight="3", root="coder-q4")).status == 200
    one = (await _fleet(lab)).find("deployment", "org/coder:1.5b@ma01")
    assert (getattr(one, "weight", 0), getattr(one, "root", "")) == (3, "coder-q4")
    ended = await reader.send(await reader.get("/admin/fleet/unpublish/org/coder%3A1.5b%40ma01"))
    assert (ended.status, (await _fleet(lab)).find("deployment", "org/coder:1.5b@ma01")) == (200, None)
    page = await reader.get("/admin/fleet/models/org/coder%3A1.5b")
    assert page.facts()["State"] == "Unused"


@pytest.mark.parametrize("name", ["owner", "dev", "viewer", "stranger"])
async def test_A01_only_an_admin_sees_or_changes_the_fleet(lab: Lab, name: str) -> None:
    before, reader = await _fleet(lab), await lab.reader(name)
    for path in ("/admin/fleet", MACHINE, f"{MACHINE}/edit", MODEL, "/admin/fleet/add"):
        assert (await reader.get(path)).status == 403
    csrf = values_of(await _profile_form(reader))["csrf"]
    for path in (f"{MACHINE}/out-of-service", f"{MACHINE}/remove", f"{MACHINE}/test", "/admin/fleet/add"):
        assert (await reader.post(path, {"csrf": csrf, "address": "127.0.0.1:1"})).status == 403
    assert await _fleet(lab) == before


async def _profile_form(reader: Reader) -> Any:
    return (await reader.get("/profile")).root.find(".//form[@method='post']")


async def test_dates_of_a_model_are_checked_and_take_effect(lab: Lab) -> None:
    reader, path = await lab.reader("root"), "/admin/fleet/edit-model/granite3.3%3A8b"  # it is 2025-06-15
    form = await reader.get(path)
    for name, says in (("released", False), ("deprecated", True), ("retires", True)):
        told = form.root.find(f".//*[@id='{name}']/..")
        assert told is not None
        assert ("a past day takes effect at once" in words(told)) is says, name
    wrong = await reader.send(await reader.get(path), deprecated="2026-02-01", retires="2026-01-01")
    assert (wrong.status, "before deprecated" in wrong.fault("retires")) == (422, True)
    spanish = await lab.reader("root", "es")
    wrong = await spanish.send(await spanish.get(path), deprecated="2026-02-01", retires="2026-01-01")
    assert wrong.fault("retires") == "retires es 2026-01-01, antes de deprecated (2026-02-01)."
    done = await reader.send(await reader.get(path), deprecated="2025-01-01", retires="2025-06-15", successor="idle")
    assert (done.status, "It is retired: its day 2025-06-15 has come." in done.text) == (200, True)
    services = lab.admin.services
    services.live.holder.current = (await SqlCatalogueStore(lab.admin.database).load()).on("2025-06-15")
    shown = await reader.get("/projects/lab/models/granite3.3:8b")
    assert "Retired" in shown.text or "retired" in shown.text


class Listing:
    """A compatible server that is nothing but its list of models."""

    def __init__(self, *models: dict[str, Any]) -> None:
        self._body = json.dumps({"object": "list", "data": models}).encode()
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status, body = (b"200 OK", self._body) if b"/v1/models" in head else (b"404 Not Found", b"{}")
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()
        writer.close()


async def test_a_published_model_takes_window_and_owner_that_the_server_tells(lab: Lab) -> None:
    told = {"id": "told", "max_model_len": 32_768, "owned_by": "vllm"}
    async with Listing(told, {"id": "silent"}, {"id": "granite3.3:8b", "max_model_len": 9, "owned_by": "x"}) as server:
        reader = await lab.reader("root")
        page = await reader.send(await reader.get("/admin/fleet/add"), address=server.address)
        assert "32,768 tokens · vllm" in page.text
        made = await reader.send(page, id="ma10", take_0="on", take_1="on", take_2="on")
        assert made.status == 200
        assert ((await _model(lab, "told")).max_model_len, (await _model(lab, "told")).owned_by) == (32_768, "vllm")
        assert ((await _model(lab, "silent")).max_model_len, (await _model(lab, "silent")).owned_by) == (None, "lab")
        assert (await _model(lab, "granite3.3:8b")).max_model_len == 60_000  # that of a known model stays
    async with Listing(told, {"id": "later", "context_length": 4_096}) as server:
        found = await reader.browser.call("POST", "/discover", {"address": server.address})
        assert found.json()["served"][1] == {"name": "later", "max_model_len": 4_096, "owned_by": None}


@pytest.mark.parametrize("name", ["ma 10!", "ma10!", " ", "a/b", "ñ", "<b>"])
async def test_a_name_of_a_machine_that_could_stand_in_no_address_is_refused(lab: Lab, name: str) -> None:
    async with FakeUpstream(models=("m",)) as upstream:
        reader = await lab.reader("root")
        page = await reader.send(await reader.get("/admin/fleet/add"), address=_address(upstream))
        refused = await reader.send(page, id=name, take_0="on")
        assert refused.status == 422
        assert refused.fault("id")
        assert not [one for one in (await _fleet(lab)).backends if one.id == name]


async def test_a_credential_that_a_server_asks_for_is_asked_for_beside_its_field(lab: Lab) -> None:
    async with FakeUpstream(api_key="s3cret-of-the-machine") as upstream:
        reader = await lab.reader("root")
        for path in ("/api/version", "/v1/models"):
            upstream.script(Behaviour(status=401), Behaviour(status=401), model=path)
        asked = await reader.send(await reader.get("/admin/fleet/add"), address=_address(upstream))
        assert asked.fault("secret") == "This server asks for a credential (401). Type it here."
        assert "with its provider" not in asked.text
        refused = await reader.send(asked, secret="wrong")
        assert refused.fault("secret") == "This server refuses the credential (401). Type another one."
