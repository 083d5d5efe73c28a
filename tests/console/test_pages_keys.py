"""The pages of API keys: made, shown once, changed, rotated and revoked by forms, and only by who may."""

from __future__ import annotations

import re

import pytest

from llmaas.domain import keys
from llmaas.domain.keys import masked
from tests.console.lab import DAY_MS, HOSTILE, Lab
from tests.console.site import PEPPER, TEST

KEYS = "/projects/lab/keys"
_TOKEN = re.compile(r"llmaas_[0-9a-z]{12}_[0-9A-Za-z]{46}")


async def test_a_key_is_made_by_a_form_and_shown_once(lab: Lab) -> None:
    reader = await lab.reader("dev")
    page = await reader.get(f"{KEYS}/new")
    made = await reader.send(
        page,
        name="Support chatbot",
        expires="30",
        models=["granite3.3:8b"],
        requests_per_minute="5",
        budget_per_month="2,50",
        networks="10.0.0.0/8\n192.168.1.7",
    )
    assert made.status == 200
    (token,) = set(_TOKEN.findall(made.text))
    presented = keys.parse(token)
    assert presented is not None
    stored = await lab.admin.services.keys.get(presented.kid)
    assert stored is not None
    assert stored.secret_hash == keys.hash_secret(presented, PEPPER)
    assert (stored.name, stored.owner_id, stored.project_id) == ("Support chatbot", "user-dev", "lab")
    assert stored.allowed_models == {"granite3.3:8b"}
    assert stored.expires_ms == lab.now_ms + 30 * DAY_MS
    assert (stored.limits.requests_per_minute, stored.limits.budget_per_month) == (5, 2_500_000_000)
    assert stored.networks == ("10.0.0.0/8", "192.168.1.7/32")
    for path in (KEYS, f"{KEYS}/{stored.id}", f"{KEYS}/{stored.id}/edit"):
        assert presented.secret not in (await reader.get(path)).text
    assert made.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "  "),
        ("name", "two\nlines"),
        ("expires", "soon"),
        ("expires", "999999"),
        ("models", ["no-such-model"]),
        ("networks", "somewhere"),
        ("requests_per_minute", "-1"),
        ("output_tokens_per_day", "9" * 30),
        ("budget_total", "a lot"),
        ("budget_per_day", "-5"),
    ],
)
async def test_what_is_wrong_stands_beside_its_field_and_nothing_is_lost(lab: Lab, field: str, value: object) -> None:
    reader = await lab.reader("dev")
    page = await reader.get(f"{KEYS}/new")
    given = {"name": "Nightly", "tokens_per_minute": "77", "networks": "10.0.0.0/8"}
    again = await reader.send(page, **{**given, field: value})
    assert again.status == 422
    assert again.fault(field)
    filled = {part.get("name"): part for part in again.form().iter()}
    assert filled["tokens_per_minute"].get("value") == "77"
    if field != "name":
        assert filled["name"].get("value") == "Nightly"
    assert [key.name for key in await lab.admin.services.keys.page("lab", after=None, limit=9)] == ["bot"]


async def test_a_key_is_changed_by_a_form(lab: Lab) -> None:
    key, reader = lab.keys["bot"], await lab.reader("dev")
    page = await reader.get(f"{KEYS}/{key.id}/edit")
    shown = await reader.send(page, name="Bot, production", budget_total="7.25", requests_per_minute="")
    assert (shown.status, shown.path, shown.heading) == (200, f"{KEYS}/{key.id}", "Bot, production")
    stored = await lab.admin.services.keys.get(key.id)
    assert stored is not None
    assert (stored.name, stored.limits.budget_total, stored.limits.requests_per_minute) == (
        "Bot, production",
        7_250_000_000,
        None,
    )
    assert stored.expires_ms is None
    late = await reader.send(page, name="Bot")
    assert (late.status, "Somebody else changed this" in late.text) == (422, True)
    assert (await lab.admin.services.keys.get(key.id)) == stored


async def test_only_what_the_playground_makes_is_left_out_of_the_list(lab: Lab) -> None:
    dev, owner = await lab.reader("dev"), await lab.reader("owner")
    for expires in ("", "1"):
        await dev.send(await dev.get(f"{KEYS}/new"), name="playground", expires=expires)
    listed = await owner.get(KEYS)
    assert [row[""] for row in listed.rows() if row.get("", "").startswith("playground")] == [
        listed.row("playground")[""]
    ]


async def test_an_expiry_that_nobody_touched_stays_the_instant_that_it_was(lab: Lab) -> None:
    reader = await lab.reader("dev")
    made = await reader.send(await reader.get(f"{KEYS}/new"), name="short", expires="30")
    presented = keys.parse(_TOKEN.findall(made.text)[0])
    assert presented is not None
    lab.admin.clock.advance(3_600.0)
    await reader.send(await reader.get(f"{KEYS}/{presented.kid}/edit"), name="shorter")
    stored = await lab.admin.services.keys.get(presented.kid)
    assert stored is not None
    assert stored.expires_ms == lab.now_ms - 3_600_000 + 30 * DAY_MS


async def test_a_key_is_rotated_and_the_old_one_works_on_for_the_overlap(lab: Lab) -> None:
    key, reader = lab.keys["bot"], await lab.reader("dev")
    made = await reader.send(await reader.get(f"{KEYS}/{key.id}/rotate"), overlap="overlap_1h")
    presented = keys.parse(_TOKEN.findall(made.text)[0])
    assert presented is not None
    successor, old = [await lab.admin.services.keys.get(kid) for kid in (presented.kid, key.id)]
    assert successor is not None
    assert old is not None
    assert successor.rotated_from == key.id
    assert successor.limits == key.limits
    assert old.revoked_ms == lab.now_ms + 3_600_000


async def test_revoking_is_asked_about_first(lab: Lab) -> None:
    key, reader = lab.keys["bot"], await lab.reader("dev")
    await lab.asked(*(lab.row(n, days_ago=n) for n in range(3)))
    page = await reader.get(f"{KEYS}/{key.id}/revoke")
    assert "bot" in page.heading
    assert "3 requests" in page.text
    stored = await lab.admin.services.keys.get(key.id)
    assert stored is not None
    assert stored.revoked_ms is None
    after = await reader.send(page)
    assert (after.status, after.path) == (200, KEYS)
    assert "The key is revoked." in after.text
    stored = await lab.admin.services.keys.get(key.id)
    assert stored is not None
    assert stored.revoked_ms == lab.now_ms
    assert not after.rows()
    assert (await reader.get(f"{KEYS}?stopped=true")).row("bot")["State"] == "Revoked"


@pytest.mark.parametrize(
    ("language", "said"), [("en", "1 request."), ("es", "1 petición."), ("fr", "1 requête.")], ids=["en", "es", "fr"]
)
async def test_one_request_is_not_many(lab: Lab, language: str, said: str) -> None:
    await lab.asked(lab.row(1, days_ago=1))
    page = await (await lab.reader("dev", language)).get(f"{KEYS}/{lab.keys['bot'].id}/revoke")
    assert said in page.text


async def test_the_list_tells_use_and_cost_of_each_key(lab: Lab) -> None:
    await lab.key("unused", owner="owner")
    await lab.asked(*(lab.row(n, days_ago=n) for n in (1, 2, 40)))
    reader = await lab.reader("viewer")
    page = await reader.get(KEYS)
    # Two requests within 30 days: 1,000 × 1 EUR and 500 × 4 EUR a million each.
    bot = page.row("bot")
    assert (bot["Last used"], bot["State"], bot["Owner"]) == ("Yesterday", "Active", "dev@example.org")
    assert bot["Cost, 30 days"].endswith("0.0060 EUR")
    assert page.row("unused")["Last used"] == "Not in 30 days"


async def test_budgets_of_a_key_are_shown_with_what_is_spent(lab: Lab) -> None:
    key, reader = lab.keys["bot"], await lab.reader("viewer")
    page = await reader.get(f"{KEYS}/{key.id}")
    assert "0.00 EUR of 10.00 EUR" in page.text
    assert page.facts()["Requests a minute"] == "30"


async def test_A01_who_may_not_gets_neither_buttons_nor_what_they_do(lab: Lab) -> None:
    key = lab.keys["bot"]
    for name, may in (("viewer", False), ("dev2", False), ("dev", True), ("owner", True), ("root", True)):
        reader = await lab.reader(name)
        page = await reader.get(f"{KEYS}/{key.id}")
        assert page.status == 200
        assert ("Revoke" in page.links) is may, name
        for act in ("edit", "rotate", "revoke"):
            asked = await reader.get(f"{KEYS}/{key.id}/{act}")
            assert asked.status == (200 if may else 403), (name, act)
            if not may:
                csrf = page.root.find(".//input[@name='csrf']")
                assert csrf is not None
                sent = await reader.post(f"{KEYS}/{key.id}/{act}", {"csrf": csrf.get("value"), "name": "mine"})
                assert sent.status == 403
    assert await lab.admin.services.keys.get(key.id) == key


async def test_A02_keys_of_others_are_not_there(lab: Lab) -> None:
    foreign, reader = lab.keys["foreign"], await lab.reader("owner")
    for path in (f"{KEYS}/{foreign.id}", f"/projects/other/keys/{foreign.id}", "/projects/other/keys"):
        page = await reader.get(path)
        assert page.status == 404
        assert "foreign" not in page.text


async def test_A11_a_form_of_somebody_else_changes_nothing(lab: Lab) -> None:
    key, reader = lab.keys["bot"], await lab.reader("owner")
    for csrf in ("", "f" * 64):
        assert (await reader.post(f"{KEYS}/{key.id}/revoke", {"csrf": csrf})).status == 403
    page = await reader.get(f"{KEYS}/{key.id}/revoke")
    field = page.root.find(".//input[@name='csrf']")
    assert field is not None
    answer = await reader.browser.http.post(
        f"{KEYS}/{key.id}/revoke", data={"csrf": field.get("value")}, headers={"origin": "https://evil.example"}
    )
    assert answer.status_code == 403
    stored = await lab.admin.services.keys.get(key.id)
    assert stored is not None
    assert stored.revoked_ms is None


async def test_A12_a_hostile_description_is_only_text(lab: Lab) -> None:
    key, reader = await lab.key(HOSTILE), await lab.reader("owner")
    for path in (KEYS, *(f"{KEYS}/{key.id}{act}" for act in ("", "/edit", "/rotate", "/revoke"))):
        page = await reader.get(path)
        assert page.status == 200
        assert page.main.find(".//script") is None
    assert HOSTILE in (await reader.get(KEYS)).text


@pytest.mark.parametrize("language", ["en", "es", "fr"])
async def test_an_empty_list_says_what_to_do(lab: Lab, language: str) -> None:
    maker, viewer = await lab.reader("dev", language), await lab.reader("viewer", language)
    page = await maker.get("/projects/empty/keys")
    assert "/projects/empty/keys/new" in page.links.values()
    assert "/projects/empty/keys/new" not in (await viewer.get("/projects/empty/keys")).links.values()
    assert page.root.get("lang") == language


async def test_a_key_made_by_an_admin_is_the_admins_by_name(lab: Lab) -> None:
    reader = await lab.reader("root")
    await reader.send(await reader.get(f"{KEYS}/new"), name="by the admin")
    for name in ("root", "viewer"):
        page = await (await lab.reader(name)).get(KEYS)
        assert page.row("by the admin")["Owner"] == "root@example.org"
    (key,) = [
        key for key in await lab.admin.services.keys.page("lab", after=None, limit=99) if key.name == "by the admin"
    ]
    assert (await reader.get(f"{KEYS}/{key.id}")).facts()["Owner"] == "root@example.org"
    await lab.asked(lab.row(1, key_id=key.id))
    usage = await reader.get("/projects/lab/usage?by=member")
    assert "root@example.org" in usage.text
    assert "user-" not in usage.text


async def test_who_left_keeps_the_name_on_keys_and_usage(lab: Lab) -> None:
    await lab.asked(lab.row(1))
    await lab.admin.services.members.remove("lab", "user-dev", by=TEST)
    reader = await lab.reader("owner")
    assert (await reader.get(KEYS + "?stopped=true")).row("bot")["Owner"] == "dev@example.org"
    assert "dev@example.org" in (await reader.get("/projects/lab/usage?by=member")).text


async def test_a_key_is_made_for_a_member_by_who_may(lab: Lab) -> None:
    owner = await lab.reader("owner")
    form = await owner.get(f"{KEYS}/new")
    await owner.send(form, name="for dev", owner="user-dev2")
    assert (await owner.get(KEYS)).row("for dev")["Owner"] == "dev2@example.org"
    assert (await owner.send(form, name="for a stranger", owner="user-stranger")).fault("owner")
    dev = await lab.reader("dev")
    form = await dev.get(f"{KEYS}/new")
    assert not [part for part in form.main.iter("select") if part.get("name") == "owner"]
    assert (await dev.send(form, name="not allowed", owner="user-dev2")).status == 403


async def test_the_old_and_the_new_key_of_a_rotation_are_told_apart(lab: Lab) -> None:
    reader, old = await lab.reader("dev"), lab.keys["bot"]
    made = await reader.send(await reader.get(f"{KEYS}/{old.id}/rotate"), overlap="overlap_1h")
    moments = [part.get("datetime") for part in made.main.iter("time")]
    assert moments == ["2025-06-15T16:06:40.000Z"]  # shown in the reader's zone by a script
    assert masked(old.id) in made.text
    new, stopping = sorted((await reader.get(KEYS)).rows(), key=lambda row: "Stops" in row[""])
    assert "Stops 2025-06-15 16:06 UTC" in stopping[""]
    assert f"Replaces {masked(old.id)}" in new[""]
    assert (new["Expires"], stopping["Expires"]) == ("Never", "2025-06-15")
    assert (await reader.get(f"{KEYS}/{old.id}")).facts()["Expires"] == "2025-06-15 16:06 UTC"


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "There is no model nothing. There are"),
        ("es", "No hay ningún modelo nothing. Hay"),
        ("fr", "Il n’y a pas de modèle nothing. Il y a"),
    ],
)
async def test_what_a_service_refuses_is_said_in_the_readers_language(lab: Lab, language: str, said: str) -> None:
    reader = await lab.reader("dev", language)
    page = await reader.send(await reader.get(f"{KEYS}/new"), name="x", models=["nothing"])
    assert page.fault("models").startswith(said)
    missing = await reader.get("/projects/lab/keys/nokey")
    assert "`" not in missing.text
    if language != "en":
        assert "There is" not in missing.text
