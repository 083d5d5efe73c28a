"""What all routes have in common, and projects, members and invitations through them."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from llmaas.admin_api.access import PUBLIC
from llmaas.console.application import MAX_BODY_BYTES, MAX_FORM_BYTES, build_admin, build_litestar
from llmaas.domain.audit import Actor
from llmaas.domain.members import Role
from tests.console.matrix import declared
from tests.console.site import PASSWORD, Admin, SignedIn

DOCS = Path(__file__).parents[2] / "docs"


async def test_it_works_through_a_real_server(admin: Admin) -> None:
    app: Any = build_admin(admin.services)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    bearer = await admin.token(await admin.user("ana"))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        me = await client.get("/api/v1/me", headers={"authorization": bearer})
        assert me.json()["user"]["email"] == "ana@example.org"
        big = await client.post("/api/v1/tokens", json={"name": "x" * MAX_BODY_BYTES})
        assert big.status_code in {401, 413}
    server.should_exit = True
    await running


async def test_every_answer_carries_what_protects_it(admin: Admin) -> None:
    client = admin.client()
    for path in ("/me", "/nothing", "/sign-in", "/sign-in?x=%00"):
        answer = await client.call("GET", path)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["content-type"] == "application/json"
        assert "access-control-allow-origin" not in answer.headers


async def test_the_document_describes_every_route(admin: Admin) -> None:
    document = (await admin.client().http.get("/api/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    found = {re.sub(r":\w+}", "}", route.name) for route in declared(build_litestar(admin.services))}
    assert described == found - {"GET /api/openapi.json"}
    for page in ("/api", "/api/openapi.yaml", "/api/docs", "/schema", "/api/swagger"):
        assert (await admin.client().http.get(page)).status_code == 404


async def test_the_routes_of_the_documents_are_those_of_the_code(admin: Admin) -> None:
    text = (DOCS / "admin-api.md").read_text()
    for route in declared(build_litestar(admin.services)):
        who = "nobody" if route.permission == PUBLIC else f"`{route.permission}`"
        row = f"| `{re.sub(r':[a-z]+}', '}', route.name)}` | {who} |"
        assert row in text, row


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"name":1}',
        b'{"name":"x","more":1}',
        b'{"name":"\xff"}',
        b"[" * 9_000,
    ],
)
async def test_a_wrong_body_is_told_in_the_envelope(admin: Admin, signed_in: SignedIn, body: bytes) -> None:
    await admin.user("ana")
    browser = await signed_in("ana")
    headers = {"origin": "http://console.test", "x-csrf-token": browser.csrf, "content-type": "application/json"}
    answer = await browser.http.post("/api/v1/tokens", content=body, headers=headers)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    big = await browser.http.post("/api/v1/tokens", content=b"x" * (MAX_BODY_BYTES + 1), headers=headers)
    assert (big.status_code, big.json()["error"]["code"]) == (413, "body_too_large")
    wrong_method = await browser.call("PUT", "/tokens")
    assert wrong_method.status_code == 405
    assert "POST" in wrong_method.headers["allow"]


async def test_A08_a_forms_size_is_bounded(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("ana")
    browser = await signed_in("ana")
    headers = {"origin": "http://console.test", "content-type": "application/x-www-form-urlencoded"}
    form = b"csrf=" + browser.csrf.encode()
    rest = MAX_FORM_BYTES - len(form)
    fits, large = (form + b"&" * rest, form + b"&" * (rest + 1))
    assert (await browser.http.post("/preferences", content=fits, headers=headers)).status_code < 400
    assert (await browser.http.post("/preferences", content=large, headers=headers)).status_code == 413


@pytest.mark.parametrize("name", ["", " ", "x" * 201, "a\nb", "a\x00b", "a\u202eb"])
async def test_names_are_one_line(admin: Admin, signed_in: SignedIn, name: str) -> None:
    await admin.user("ana")
    browser = await signed_in("ana")
    answer = await browser.call("POST", "/tokens", {"name": name})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")


async def test_projects_are_made_changed_and_archived(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("root", admin=True)
    await admin.user("ana")
    root, ana = await signed_in("root"), await signed_in("ana")
    made = await root.call("POST", "/projects", {"id": "lab", "name": "Lab"})
    assert made.status_code == 201
    assert (await root.call("POST", "/projects", {"id": "lab", "name": "Lab"})).status_code == 409
    assert (await root.call("POST", "/projects", {"id": "Lab!", "name": "Lab"})).status_code == 400
    assert (await root.call("POST", "/projects", {"id": "x", "name": "X", "tier": "none"})).status_code == 404
    body = {"user_id": "user-ana", "role": "owner"}
    assert (await root.call("POST", "/projects/lab/members", body)).status_code == 204
    first = await ana.call("GET", "/projects/lab")
    changed = await ana.call(
        "PATCH", "/projects/lab", {"name": "New", "low_credit": "5.00"}, if_match=first.headers["etag"]
    )
    assert (changed.json()["name"], changed.json()["low_credit"]) == ("New", "5.00")
    assert changed.headers["etag"] != first.headers["etag"]
    lost = await ana.call("PATCH", "/projects/lab", {"name": "Lost"}, if_match=first.headers["etag"])
    assert (lost.status_code, lost.json()["error"]["code"]) == (412, "outdated")
    assert (await ana.call("PATCH", "/projects/lab", {"low_credit": "-1"})).status_code == 400
    terms = await root.call("PUT", "/projects/lab/terms", {"tier": None, "retention_days": 30})
    assert terms.json()["retention_days"] == 30
    assert (await root.call("POST", "/projects/lab/archive")).json()["archived"] is not None
    assert (await root.call("POST", "/projects/lab/archive")).status_code == 409


async def test_lists_come_in_pages(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("root", admin=True)
    for number in range(5):
        await admin.project(f"p{number}")
    root = await signed_in("root")
    seen, after = [], ""
    for _ in range(3):
        page = (await root.call("GET", f"/projects?limit=2{after}")).json()
        seen += [project["id"] for project in page["data"]]
        after = f"&after={page['next']}"
    assert seen == [f"p{number}" for number in range(5)]
    assert page["next"] is None
    for query in ("limit=0", "limit=201", "limit=x", "after=" + "x" * 300):
        assert (await root.call("GET", f"/projects?{query}")).status_code == 400


async def test_a_project_keeps_an_owner(admin: Admin, signed_in: SignedIn) -> None:
    for name in ("ana", "bo"):
        await admin.user(name)
    await admin.project("lab", ana=Role.OWNER, bo=Role.VIEWER)
    ana = await signed_in("ana")
    for method, path, body in (
        ("POST", "/projects/lab/leave", None),
        ("DELETE", "/projects/lab/members/user-ana", None),
        ("PATCH", "/projects/lab/members/user-ana", {"role": "viewer"}),
    ):
        assert (await ana.call(method, path, body)).status_code == 409
    stale = await ana.call("PATCH", "/projects/lab/members/user-bo", {"role": "owner", "seen": "developer"})
    assert stale.status_code == 412
    assert (await ana.call("PATCH", "/projects/lab/members/user-bo", {"role": "owner"})).status_code == 200
    assert (await ana.call("POST", "/projects/lab/leave")).status_code == 204
    assert (await ana.call("GET", "/projects/lab")).status_code == 404
    members = (await (await signed_in("bo")).call("GET", "/projects/lab/members")).json()["data"]
    assert [(member["user_id"], member["role"]) for member in members] == [("user-bo", "owner")]


async def _invite(admin: Admin, signed_in: SignedIn, email: str) -> str:
    answer = await (await signed_in("ana")).call(
        "POST", "/projects/lab/invitations", {"email": email, "role": "developer"}
    )
    assert answer.status_code == 201
    return str(answer.json()["token"])


async def test_an_invitation_makes_a_user_once(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("ana")
    await admin.project("lab", ana=Role.OWNER)
    token = await _invite(admin, signed_in, "New@example.org")
    somebody = admin.client()
    form = {"token": token, "password": PASSWORD, "name": "New"}
    assert (await somebody.call("POST", "/sign-up", {**form, "password": "short"})).status_code == 400
    assert (await somebody.call("POST", "/sign-up", {**form, "token": "x"})).status_code == 404
    made = await somebody.call("POST", "/sign-up", form)
    assert (made.status_code, made.json()["email"], made.json()["is_admin"]) == (201, "new@example.org", False)
    assert (await somebody.call("POST", "/sign-up", form)).status_code == 404
    await somebody.sign_in("new@example.org")
    assert (await somebody.call("GET", "/me")).json()["projects"] == [{"project": "lab", "role": "developer"}]


async def test_an_invitation_is_for_one_address(admin: Admin, signed_in: SignedIn) -> None:
    for name in ("ana", "bo", "eve"):
        await admin.user(name)
    await admin.project("lab", ana=Role.OWNER)
    token = await _invite(admin, signed_in, "bo@example.org")
    somebody = {"token": token, "password": PASSWORD, "name": "Bo"}
    assert (await admin.client().call("POST", "/sign-up", somebody)).status_code == 409
    body = {"token": token}
    assert (await (await signed_in("eve")).call("POST", "/invitations/accept", body)).status_code == 404
    bo = await signed_in("bo")
    assert (await bo.call("POST", "/invitations/accept", body)).json() == {"project": "lab", "role": "developer"}
    assert (await bo.call("POST", "/invitations/accept", body)).status_code == 404


@pytest.mark.parametrize("ending", ["expired", "revoked", "inviter gone"])
async def test_an_invitation_that_has_ended_lets_nobody_in(admin: Admin, signed_in: SignedIn, ending: str) -> None:
    for name in ("ana", "bo"):
        await admin.user(name)
    await admin.project("lab", ana=Role.OWNER, bo=Role.OWNER)
    token = await _invite(admin, signed_in, "new@example.org")
    bo = await signed_in("bo")
    if ending == "expired":
        admin.clock.advance(7 * 86_400)
    elif ending == "revoked":
        (listed,) = (await bo.call("GET", "/projects/lab/invitations")).json()["data"]
        assert (await bo.call("DELETE", f"/projects/lab/invitations/{listed['id']}")).status_code == 204
    else:
        assert (await bo.call("DELETE", "/projects/lab/members/user-ana")).status_code == 204
    form = {"token": token, "password": PASSWORD, "name": "New"}
    assert (await admin.client().call("POST", "/sign-up", form)).status_code == 404


@pytest.mark.parametrize("change", [{"disabled": True}, {"is_admin": False}])
async def test_what_an_admin_sent_lets_nobody_in_when_they_are_none(
    admin: Admin, signed_in: SignedIn, change: dict[str, bool]
) -> None:
    await admin.user("root", admin=True)
    await admin.user("ana", admin=True)
    await admin.project("lab")
    await admin.project("own", ana=Role.OWNER)
    ana = await signed_in("ana")
    tokens = []
    for project in ("lab", "own"):
        sent = {"email": f"{project}@example.org", "role": "owner"}
        tokens.append((await ana.call("POST", f"/projects/{project}/invitations", sent)).json()["token"])
    root = await signed_in("root")
    assert (await root.call("PATCH", "/users/user-ana", change)).status_code == 200
    form = {"password": PASSWORD, "name": "New"}
    answers = [(await admin.client().call("POST", "/sign-up", {**form, "token": t})).status_code for t in tokens]
    assert answers == [404, 404 if "disabled" in change else 201]


async def test_changes_at_the_same_moment_are_not_lost(admin: Admin) -> None:
    await admin.project("lab")
    seen = await admin.services.projects.get("lab")
    assert seen is not None
    by = Actor("system", "test", "")
    results = await asyncio.gather(
        *(
            admin.services.projects.change(seen, dataclasses.replace(seen, name=name), by=by)
            for name in ("one", "two", "three")
        ),
        return_exceptions=True,
    )
    assert [result is None for result in results].count(True) == 1
