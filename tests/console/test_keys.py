"""Keys over the admin API: made and shown once, changed within what is allowed, and never those of others."""

from __future__ import annotations

from typing import Any

import pytest

from llmaas.domain import keys
from llmaas.domain.fleet import Fleet
from llmaas.domain.members import Role
from llmaas.domain.models import Lifecycle, Model, ModelKind
from tests.console.site import PEPPER, TEST, Admin, Browser, SignedIn

KEYS = "/projects/lab/keys"


@pytest.fixture
async def lab(admin: Admin) -> Admin:
    for name in ("viewer", "dev", "dev2", "owner", "stranger"):
        await admin.user(name)
    await admin.user("root", admin=True)
    await admin.project("lab", viewer=Role.VIEWER, dev=Role.DEVELOPER, dev2=Role.DEVELOPER, owner=Role.OWNER)
    await admin.project("other", stranger=Role.OWNER)
    retired = (Lifecycle("retired", successor="granite3.3:8b"), Lifecycle("retired"))
    fleet = Fleet(
        models=(
            Model("granite3.3:8b", ModelKind.CHAT, 0, ("granite",)),
            Model("old", ModelKind.CHAT, 0, lifecycle=retired[0]),
            Model("gone", ModelKind.CHAT, 0, lifecycle=retired[1]),
        )
    )
    await admin.services.fleet.apply(fleet, now_ms=1, prune=False, by=TEST)
    return admin


async def make(browser: Browser, **values: Any) -> dict[str, str]:
    answer = await browser.call("POST", KEYS, {"name": "k", **values})
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    return made


async def test_a_key_is_shown_once_and_works(lab: Admin, signed_in: SignedIn) -> None:
    browser = await signed_in("dev")
    limits = {"requests_per_minute": 5, "budget_per_month": "5.00"}
    made = await make(browser, models=["Granite"], networks=["10.0.0.0/8"], limits=limits, expires_days=30)
    presented = keys.parse(made["key"])
    assert presented is not None
    stored = await lab.services.keys.get(made["id"])
    assert stored is not None
    assert stored.secret_hash == keys.hash_secret(presented, PEPPER)
    answer = await browser.call("GET", f"{KEYS}/{made['id']}")
    assert presented.secret not in answer.text
    shown = answer.json()
    assert (shown["owner"], shown["models"], shown["state"]) == ("user-dev", ["granite3.3:8b"], "active")
    assert (shown["limits"], shown["networks"]) == (limits, ["10.0.0.0/8"])
    assert (await browser.call("GET", KEYS)).json() == {"data": [shown], "next": None}


async def test_a_retired_model_means_its_successor(lab: Admin, signed_in: SignedIn) -> None:
    browser = await signed_in("dev")
    made = await make(browser, models=["old"])
    path = f"{KEYS}/{made['id']}"
    assert (await browser.call("GET", path)).json()["models"] == ["granite3.3:8b"]
    assert (await browser.call("PATCH", path, {"models": ["OLD", "granite"]})).json()["models"] == ["granite3.3:8b"]
    assert (await browser.call("POST", KEYS, {"name": "k", "models": ["gone"]})).status_code == 400


async def test_a_model_that_a_key_has_stays_when_it_is_retired(lab: Admin, signed_in: SignedIn) -> None:
    browser = await signed_in("dev")
    made = await make(browser, models=["granite"])
    key = await lab.services.keys.get(made["id"])
    assert key is not None
    await lab.services.keys.change(key, {"allowed_models": frozenset({"gone"})}, by=TEST)
    changed = await browser.call("PATCH", f"{KEYS}/{made['id']}", {"models": ["gone", "granite"], "name": "new"})
    assert (changed.status_code, changed.json()["models"]) == (200, ["gone", "granite3.3:8b"])


async def test_A03_only_listed_fields_are_taken(lab: Admin, signed_in: SignedIn) -> None:
    browser = await signed_in("dev")
    made = await make(browser)
    before = await lab.services.keys.get(made["id"])
    for field in (
        *(
            "id",
            "project_id",
            "project",
            "secret_hash",
            "created_ms",
            "revoked_ms",
            "rotated_from",
            "owner_id",
            "owner",
        ),
        *("permissions", "expires_ms", "allowed_models", "state", "key"),
    ):
        given: tuple[Any, ...] = ("x", 1, None, [], True)
        for value in given:
            answer = await browser.call("PATCH", f"{KEYS}/{made['id']}", {field: value})
            assert answer.status_code == 400, f"{field}={value}"
            if field not in {"permissions", "owner"}:
                assert (await browser.call("POST", KEYS, {"name": "k", field: value})).status_code == 400
    assert await lab.services.keys.get(made["id"]) == before


async def test_A03_a_key_has_no_more_rights_than_its_maker(lab: Admin, signed_in: SignedIn) -> None:
    more = {"name": "k", "permissions": ["inference:use", "metrics:read"]}
    for name in ("dev", "owner"):
        assert (await (await signed_in(name)).call("POST", KEYS, more)).status_code == 403
    made = await (await signed_in("root")).call("POST", KEYS, more)
    assert made.status_code == 201
    # The successor of a key would be theirs.
    rotated = await (await signed_in("owner")).call("POST", f"{KEYS}/{made.json()['id']}/rotate", {})
    assert rotated.status_code == 403
    assert (await (await signed_in("viewer")).call("POST", KEYS, {"name": "k"})).status_code == 403


async def test_a_developer_changes_only_their_own(lab: Admin, signed_in: SignedIn) -> None:
    made = await make(await signed_in("dev"))
    path = f"{KEYS}/{made['id']}"
    other = await signed_in("dev2")
    for method, end, body in (("PATCH", "", {"name": "x"}), ("POST", "/rotate", {}), ("DELETE", "", None)):
        assert (await other.call(method, path + end, body)).status_code == 403
    assert (await other.call("GET", path)).status_code == 200
    owner = await signed_in("owner")
    assert (await owner.call("PATCH", path, {"name": "x"})).json()["name"] == "x"
    assert (await owner.call("DELETE", path)).status_code == 204
    assert (await owner.call("GET", path)).json()["state"] == "revoked"


async def test_A15_keys_of_another_project_are_not_there(lab: Admin, signed_in: SignedIn) -> None:
    made = await make(await signed_in("dev"))
    stranger = await signed_in("stranger")
    for base in ("/projects/lab/keys", "/projects/other/keys"):
        path = f"{base}/{made['id']}"
        for method, end, body in (
            ("GET", "", None),
            ("PATCH", "", {"name": "x"}),
            ("POST", "/rotate", {}),
            ("DELETE", "", None),
        ):
            answer = await stranger.call(method, path + end, body)
            assert answer.status_code == 404, f"{method} {path}"
    key = await lab.services.keys.get(made["id"])
    assert key is not None
    assert (key.name, key.revoked_ms) == ("k", None)


async def test_a_rotation_hands_over(lab: Admin, signed_in: SignedIn) -> None:
    browser = await signed_in("dev")
    old = await make(browser, limits={"concurrent_requests": 3})
    answer = await browser.call("POST", f"{KEYS}/{old['id']}/rotate", {"overlap_s": 60})
    new = answer.json()
    shown = (await browser.call("GET", f"{KEYS}/{new['id']}")).json()
    assert (shown["rotated_from"], shown["limits"]) == (old["id"], {"concurrent_requests": 3})
    assert (await browser.call("GET", f"{KEYS}/{old['id']}")).json()["state"] == "expiring"
    assert (await browser.call("POST", f"{KEYS}/{old['id']}/rotate", {})).status_code == 409
    assert (await browser.call("POST", f"{KEYS}/{new['id']}/rotate", {"overlap_s": -1})).status_code == 400


async def test_an_old_version_is_refused(lab: Admin, signed_in: SignedIn) -> None:
    browser = await signed_in("dev")
    path = f"{KEYS}/{(await make(browser))['id']}"
    etag = (await browser.call("GET", path)).headers["etag"]
    assert (await browser.call("PATCH", path, {"name": "a"}, if_match=etag)).status_code == 200
    assert (await browser.call("PATCH", path, {"name": "b"}, if_match=etag)).status_code == 412
    assert (await browser.call("GET", path)).json()["name"] == "a"


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"models": ["nothing"]},
        {"networks": ["10.0.0.1/8"]},
        {"networks": ["10.0.0.0/8"] * 101},
        {"expires_days": 0},
        {"limits": {"requests_per_minute": 0}},
        {"limits": {"requests_per_minute": 1.5}},
        {"limits": {"budget_total": "-1"}},
        {"limits": {"budget_total": 5}},
        {"limits": {"request_per_minute": 5}},
        {"permissions": ["everything"]},
    ],
)
async def test_wrong_values_make_no_key(lab: Admin, signed_in: SignedIn, values: dict[str, Any]) -> None:
    browser = await signed_in("dev")
    assert (await browser.call("POST", KEYS, {"name": "k", **values})).status_code == 400
    assert (await browser.call("GET", KEYS)).json()["data"] == []
