"""Who may call which route: the declared table, tried out on every route with every kind of caller."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmaas.admin_api.access import PUBLIC
from llmaas.admin_api.shapes import Form
from llmaas.console.application import build_litestar
from llmaas.domain import keys
from llmaas.domain.members import Role
from llmaas.domain.permissions import RULES, Credential, Permission
from tests.console.matrix import Declared, declared
from tests.console.site import Admin, Browser, SignedIn

DOCS = Path(__file__).parents[2] / "docs"
PUBLIC_ROUTES = {
    "GET /api/openapi.json",
    "GET /api/platform-status",
    "GET /api/v1/sign-in",
    "GET /api/v1/sign-in/openid",
    "GET /api/v1/sign-in/openid/callback",
    "POST /api/v1/sign-in",
    "POST /api/v1/sign-up",
}
ROLES = {"viewer": Role.VIEWER, "developer": Role.DEVELOPER, "owner": Role.OWNER}


def routes(admin: Admin) -> list[Declared]:
    return list(declared(build_litestar(admin.services)))


async def people(admin: Admin) -> None:
    """A member of each role in `lab`, an owner of another project, an admin; and somebody to do things to."""
    for name in (*ROLES, "stranger", "target"):
        await admin.user(name)
    await admin.user("root", admin=True)
    await admin.project("lab", **ROLES)
    await admin.project("other", stranger=Role.OWNER)


def test_permissions_are_in_order_and_have_a_rule() -> None:
    names = [str(permission) for permission in Permission]
    assert names == sorted(names)
    assert all(re.fullmatch(r"[a-z]+:[a-z-]+", name) for name in names)
    assert set(RULES) == set(Permission)


async def test_A01_every_route_declares_who_may_call_it(admin: Admin) -> None:
    found = routes(admin)
    assert [route.name for route in found if route.permission is None] == []
    assert {route.name for route in found if route.permission == PUBLIC} == PUBLIC_ROUTES
    for route in found:
        assert isinstance(route.permission, Permission) or route.name in PUBLIC_ROUTES
    assert {str(route.permission) for route in found} - {PUBLIC} <= set(Permission)


async def test_A01_no_credential_lets_nobody_in(admin: Admin) -> None:
    ana = await admin.user("ana", admin=True)
    _, parts = keys.mint()
    expired = await admin.token(ana, expires_ms=admin.clock.now_ms())
    revoked = await admin.token(ana, revoked_ms=admin.clock.now_ms())
    gone = await admin.token(await admin.user("gone", admin=True, disabled_ms=1))
    api_key, _ = keys.mint()
    given = ["", "Bearer", "Bearer x", "Basic YTpi", f"Bearer {api_key}", f"Bearer {parts.kid}", expired, revoked, gone]
    client = admin.client()
    texts = set()
    for route in routes(admin):
        if route.permission == PUBLIC:
            continue
        for credential in given:
            answer = await client.call(route.method, route.url, authorization=credential)
            assert answer.status_code == 401, f"{route.name} with {credential}"
            assert answer.headers["www-authenticate"] == "Bearer"
            texts.add(answer.text)
            admin.clock.advance(1)  # or the throttle answers
    assert len(texts) == 1


def expected(route: Declared, name: str, credential: Credential) -> int | None:
    """The status of a refusal; None: the caller gets past the guard."""
    assert isinstance(route.permission, Permission)
    rule = RULES[route.permission]
    if name == "root":
        return None if credential in rule.credentials else 403
    if name == "stranger" and route.of_project:
        return 404
    role = ROLES.get(name) if route.of_project else None
    return None if (rule.everyone or role in rule.roles) and credential in rule.credentials else 403


@pytest.mark.parametrize("credential", list(Credential))
@pytest.mark.parametrize("name", [*ROLES, "stranger", "root"])
async def test_A01_every_route_follows_the_table(
    admin: Admin, signed_in: SignedIn, name: str, credential: Credential
) -> None:
    await people(admin)
    user = await admin.services.users.get(f"user-{name}")
    assert user is not None
    browser = admin.client()
    bearer = ""
    if credential is Credential.TOKEN:
        bearer = await admin.token(user)
    else:
        browser = await signed_in(name)
    for route in sorted(routes(admin), key=_harm):
        if route.permission == PUBLIC or route.name == "POST /api/v1/sign-out":
            continue
        # A body that no form takes: who gets past the guard changes nothing.
        body: list[object] | None = [] if route.method != "GET" else None
        answer = await browser.call(route.method, route.url, body, authorization=bearer)
        refusal = expected(route, name, credential)
        if refusal is None:
            assert answer.status_code not in {401, 403}, f"{route.name}: {answer.text}"
            assert answer.status_code < 500, f"{route.name}: {answer.text}"
        else:
            assert answer.status_code == refusal, f"{route.name}: {answer.text}"


def _harm(route: Declared) -> int:
    """What works without a body comes late, and who leaves the project does it last."""
    bodiless = route.method != "GET" and "data" not in route.handler.parsed_fn_signature.parameters
    return bodiless + route.path.endswith("/leave")


async def test_A15_what_is_of_others_is_as_what_is_not_there(admin: Admin, signed_in: SignedIn) -> None:
    await people(admin)
    stranger = await signed_in("stranger")
    owner = await signed_in("owner")
    invited = await owner.call("POST", "/projects/lab/invitations", {"email": "x@y.z", "role": "viewer"})
    invitation = invited.json()["id"]
    token = (await owner.call("POST", "/tokens", {"name": "t"})).json()["id"]
    (session,) = [s["id"] for s in (await owner.call("GET", "/sessions")).json()["data"]]
    for route in routes(admin):
        if route.of_project:
            foreign = await stranger.call(route.method, route.url, [])
            unknown = await stranger.call(route.method, route.url.replace("/lab", "/nowhere"), [])
            assert foreign.status_code == unknown.status_code == 404, route.name
            assert foreign.text.replace("lab", "nowhere") == unknown.text, route.name
    for path, unknown_path in (
        (f"/projects/other/invitations/{invitation}", "/projects/other/invitations/nothing"),
        (f"/tokens/{token}", "/tokens/nothing"),
        (f"/sessions/{session}", "/sessions/nothing"),
        ("/projects/other/members/user-owner", "/projects/other/members/nobody"),
    ):
        foreign = await stranger.call("DELETE", path)
        unknown = await stranger.call("DELETE", unknown_path)
        assert foreign.status_code == unknown.status_code == 404, path
        assert foreign.text == unknown.text, path
    assert [p["id"] for p in (await stranger.call("GET", "/projects")).json()["data"]] == ["other"]
    assert (await owner.call("GET", "/me")).status_code == 200


COLUMNS = {
    "id", "project_id", "tier_id", "tier", "retention_days", "created_ms", "archived_ms", "low_credit_nano",
    "email", "password_hash", "is_admin", "must_change_password", "totp_secret", "totp_last_step", "oidc_issuer",
    "oidc_subject", "disabled_ms", "user_id", "token_hash", "secret_hash", "seen_ms", "used_ms", "revoked_ms",
    "expires_ms", "accepted_ms", "invited_by", "address", "user_agent", "role", "permissions", "owner_id", "by",
}  # fmt: skip


async def test_A03_only_what_a_form_declares_is_ever_written(admin: Admin, signed_in: SignedIn) -> None:
    await people(admin)
    before = await state(admin)
    owner = await signed_in("owner")
    tried = 0
    for route in routes(admin):
        form = _form(route)
        if form is None or route.permission == PUBLIC:
            continue
        for column in sorted(COLUMNS - set(form.__struct_fields__)):
            answer = await owner.call(route.method, route.url, {**_valid(form), column: 1})
            assert answer.status_code in {400, 403}, f"{route.name} {column}: {answer.text}"
            tried += 1
    assert tried > 200
    assert await state(admin) == before


async def test_A03_a_member_changes_no_terms_and_nobody_makes_more_of_themselves(
    admin: Admin, signed_in: SignedIn
) -> None:
    await people(admin)
    for name in ROLES:
        browser = await signed_in(name)
        await refused(browser, "PUT", "/projects/lab/terms", {"tier": None, "retention_days": 1})
        await refused(browser, "POST", "/projects/lab/members", {"user_id": f"user-{name}", "role": "owner"})
        await refused(browser, "POST", "/users", {"email": "x@y.z", "is_admin": True})
        await refused(browser, "PATCH", f"/users/user-{name}", {"is_admin": True})
        if name != "owner":
            await refused(browser, "PATCH", f"/projects/lab/members/user-{name}", {"role": "owner"})
            await refused(browser, "POST", "/projects/lab/invitations", {"email": "x@y.z", "role": "owner"})
            await refused(browser, "PATCH", "/projects/lab", {"name": "mine"})


async def refused(browser: Browser, method: str, path: str, body: Any) -> None:
    assert (await browser.call(method, path, body)).status_code == 403, f"{method} {path}"


def _form(route: Declared) -> type[Form] | None:
    parameter = route.handler.parsed_fn_signature.parameters.get("data")
    kind = parameter.annotation if parameter is not None else None
    return kind if isinstance(kind, type) and issubclass(kind, Form) else None


def _valid(form: type[Form]) -> dict[str, Any]:
    """Values for what the form needs; a refusal is then because of the column that is too much."""
    values: dict[str, Any] = {"role": "viewer", "expires_days": 1, "retention_days": 1, "tier": None}
    return {field.name: values.get(field.name, "x") for field in msgspec.structs.fields(form) if field.required}


async def state(admin: Admin) -> list[Any]:
    stores = admin.services
    return [
        await stores.users.page(after=None, limit=100),
        await stores.projects.page(of_user=None, after=None, limit=100),
        await stores.members.of_project("lab", after=None, limit=100),
        await stores.invitations.of_project("lab", after=None, limit=100),
        await stores.tokens.of_user("user-owner", after=None, limit=100),
    ]


def test_the_table_of_permissions_is_documented() -> None:
    text = (DOCS / "access.md").read_text()
    for permission, rule in RULES.items():
        cells = ["yes" if rule.everyone or role in rule.roles else "" for role in ROLES.values()]
        who = ["yes" if credential in rule.credentials else "" for credential in Credential]
        row = f"| `{permission}` | {' | '.join([*cells, 'yes' if rule.everyone else '', 'yes', *who])} |"
        assert re.sub(r" +", " ", row) in re.sub(r" +", " ", text), row
