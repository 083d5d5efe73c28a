"""Where a project's alerts are told: who may say so, and what is shown once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from llmaas.domain.members import Role
from tests.console.lab import Lab
from tests.console.reading import values_of
from tests.console.site import Admin, SignedIn
from tests.fakes.webhook import FakeReceiver

CHANNELS = "/projects/lab/alert-channels"
PAGE = "/projects/lab/billing/alerts"


@pytest.fixture
async def receiver() -> AsyncIterator[FakeReceiver]:
    async with FakeReceiver() as listening:
        yield listening


@pytest.fixture
async def project(admin: Admin) -> Admin:
    await admin.user("root", admin=True)
    for name in ("ana", "dev", "eve"):
        await admin.user(name)
    await admin.project("lab", ana=Role.OWNER, dev=Role.DEVELOPER)
    await admin.project("other", eve=Role.OWNER)
    return admin


async def test_channels_made_anew_send_no_more_tests(
    project: Admin, signed_in: SignedIn, receiver: FakeReceiver
) -> None:
    ana = await signed_in("ana")
    statuses = []
    for number in range(5):
        sent = {"kind": "webhook", "target": f"{receiver.url}?{number}"}
        path = f"{CHANNELS}/{(await ana.call('POST', CHANNELS, sent)).json()['channel']['id']}"
        statuses.append((await ana.call("POST", f"{path}/test")).status_code)
        await ana.call("DELETE", path)
    assert statuses == [200] * 3 + [429] * 2
    assert len(receiver.calls) == 3


async def test_a_webhook_is_added_tested_and_removed(
    project: Admin, signed_in: SignedIn, receiver: FakeReceiver
) -> None:
    ana = await signed_in("ana")
    made = await ana.call("POST", CHANNELS, {"kind": "webhook", "target": receiver.url})
    assert made.status_code == 201
    assert made.json()["secret"].startswith("whsec_")
    channel = made.json()["channel"]
    tested = await ana.call("POST", f"{CHANNELS}/{channel['id']}/test")
    assert (tested.status_code, tested.json()) == (200, {"delivered": True, "fault": None})
    assert b'"type":"alert.test"' in receiver.calls[0][1]
    assert (await ana.call("POST", f"{CHANNELS}/{channel['id']}/test")).status_code == 429
    assert len(receiver.calls) == 1
    project.clock.advance(20)
    receiver.statuses.append(404)
    assert "answered 404" in (await ana.call("POST", f"{CHANNELS}/{channel['id']}/test")).json()["fault"]
    assert "secret" not in (await ana.call("GET", CHANNELS)).text
    assert (await ana.call("DELETE", f"{CHANNELS}/{channel['id']}")).status_code == 204
    assert (await ana.call("GET", CHANNELS)).json()["data"] == []


async def test_A01_only_owners_and_admins_see_or_change_them(project: Admin, signed_in: SignedIn) -> None:
    ana, dev, eve, root = [await signed_in(name) for name in ("ana", "dev", "eve", "root")]
    made = await ana.call("POST", CHANNELS, {"kind": "email", "target": "ana@example.org"})
    one = f"{CHANNELS}/{made.json()['channel']['id']}"
    for caller, status in ((dev, 403), (eve, 404)):
        assert (await caller.call("GET", CHANNELS)).status_code == status
        assert (await caller.call("POST", CHANNELS, {"kind": "email", "target": "x@example.org"})).status_code == status
        assert (await caller.call("POST", f"{one}/test")).status_code == status
        assert (await caller.call("DELETE", one)).status_code == status
    elsewhere = one.replace("/lab/", "/other/")
    assert (await eve.call("DELETE", elsewhere)).status_code == 404
    assert (await eve.call("POST", f"{elsewhere}/test")).status_code == 404
    assert (await root.call("DELETE", one)).status_code == 204


@pytest.mark.parametrize(
    "form",
    [
        {"kind": "email", "target": "ana"},
        {"kind": "webhook", "target": "file:///etc/passwd"},
        {"kind": "sms", "target": "1"},
    ],
)
async def test_what_is_no_place_is_refused(project: Admin, signed_in: SignedIn, form: dict[str, str]) -> None:
    answer = await (await signed_in("ana")).call("POST", CHANNELS, form)
    assert answer.status_code == 400


async def test_an_owner_adds_places_on_the_page(lab: Lab, receiver: FakeReceiver) -> None:
    owner = await lab.reader("owner")
    page = await owner.get(PAGE)
    page = await owner.send(page, target="nonsense")
    assert page.status == 422
    page = await owner.send(await owner.get(PAGE), target="ana@example.org")
    assert "ana@example.org" in page.text
    page = await owner.post(PAGE, {**values_of(page.form()), "target": receiver.url})
    assert "whsec_" in page.text
    page = await owner.get(PAGE)
    assert "whsec_" not in page.text
    assert [row["Kind"] for row in page.rows()] == ["E-mail", "Webhook"]


@pytest.mark.parametrize("name", ["viewer", "dev"])
async def test_A01_others_have_no_such_page(lab: Lab, name: str) -> None:
    assert (await (await lab.reader(name)).get(PAGE)).status == 403
