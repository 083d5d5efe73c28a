"""The fleet over the admin API: judged like a file, changed as a whole, refused when the picture is old, and recorded."""

from __future__ import annotations

from typing import Any

import pytest

from llmaas.domain.audit import AuditFilter
from llmaas.domain.members import Role
from llmaas.domain.projects import Project
from llmaas.domain.workers import Worker
from llmaas.storage.workers import SqlWorkerStore
from tests.console.site import PEPPER, TEST, Admin, Browser, SignedIn
from tests.fakes.upstream import FakeUpstream

FLEET: dict[str, Any] = {
    "tiers": [{"id": "gold", "requests_per_minute": 10, "prices": {"org/m": {"input": "1.00"}}}],
    "providers": [{"id": "lab", "kind": "vllm"}],
    "backends": [{"id": "b", "provider": "lab", "base_url": "http://10.0.0.9:8000/v1"}],
    "models": [{"id": "org/m", "aliases": ["m"], "price": {"input": "2.00"}}],
    "deployments": [{"model": "org/m", "backend": "b"}],
}


@pytest.fixture
async def root(admin: Admin, signed_in: SignedIn) -> Browser:
    await admin.user("root", admin=True)
    return await signed_in("root")


async def test_what_is_put_is_shown_in_the_same_form(root: Browser) -> None:
    dry = await root.call("PUT", "/fleet?dry_run=true", FLEET)
    assert len(dry.json()["changes"]) == 5
    assert (await root.call("GET", "/fleet")).json()["fleet"] == {}
    answer = await root.call("PUT", "/fleet", FLEET)
    assert answer.status_code == 200, answer.text
    shown = (await root.call("GET", "/fleet")).json()
    assert shown["revision"] == answer.json()["revision"] == dry.json()["revision"] + 1
    assert shown["fleet"]["tiers"][0]["prices"]["org/m"]["input"] == "1.00"
    again = (await root.call("PUT", "/fleet?prune=true", shown["fleet"])).json()
    assert (again["changes"], again["revision"]) == ([], shown["revision"])


async def test_every_mistake_is_told_and_nothing_done(root: Browser) -> None:
    bad = {
        "backends": [{"id": "b", "provider": "nobody", "base_url": "ftp://x"}],
        "models": [{"id": "m", "kind": "poem"}, {"id": "n", "colour": "red"}],
    }
    answer = await root.call("PUT", "/fleet", bad)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    for told in ("kind in [[models]]", "colour", "base_url", "nobody"):
        assert told in message
    assert (await root.call("GET", "/fleet")).json()["fleet"] == {}


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "LAB_KEY", "LLMAAS_MASTER_KEY"])
async def test_A22_no_provider_names_a_variable_of_the_host(root: Browser, variable: str) -> None:
    provider = {**FLEET["providers"][0], "api_key_env": variable}
    for path, body in (("/fleet", {**FLEET, "providers": [provider]}), ("/fleet/providers/lab", provider)):
        answer = await root.call("PUT", path, body)
        assert answer.status_code == 400
        message = answer.json()["error"]["message"]
        assert answer.json()["error"]["param"].endswith("api_key_env")
        assert "LLMAAS_PROVIDER_" in message
        assert f'not "{variable}"; did you mean "LLMAAS_PROVIDER_{variable.removeprefix("LLMAAS_")}"?' in message
        assert ("credential_variables" in message) != variable.startswith("LLMAAS_")
    assert (await root.call("GET", "/fleet")).json()["fleet"] == {}
    allowed = {**provider, "api_key_env": "LLMAAS_PROVIDER_LAB_KEY"}
    assert (await root.call("PUT", "/fleet/providers/lab", allowed)).status_code == 200


async def test_each_kind_of_thing_is_put_shown_and_taken_away(root: Browser) -> None:
    names = {"providers": "lab", "backends": "b", "models": "org/m", "tiers": "gold", "deployments": "org/m@b"}
    for plural, name in names.items():
        path = f"/fleet/{plural}/{name}"
        assert (await root.call("GET", path)).status_code == 404
        answer = await root.call("PUT", path, FLEET[plural][0])
        assert answer.status_code == 200, answer.text
        shown = await root.call("GET", path)
        assert shown.json() == answer.json()
        assert shown.headers["etag"] == answer.headers["etag"]
        assert [thing["values"] for thing in (await root.call("GET", f"/fleet/{plural}")).json()["data"]] == [
            shown.json()["values"]
        ]
    needed = await root.call("DELETE", "/fleet/models/org/m")
    assert needed.status_code == 409
    assert "tier `gold`" in needed.json()["error"]["message"]
    for plural, name in reversed(names.items()):
        assert (await root.call("DELETE", f"/fleet/{plural}/{name}")).status_code == 204
        assert (await root.call("DELETE", f"/fleet/{plural}/{name}")).status_code == 404
    assert (await root.call("GET", "/fleet")).json()["fleet"] == {}


async def test_the_address_and_the_body_name_the_same(root: Browser) -> None:
    answer = await root.call("PUT", "/fleet/providers/lab", {"id": "other", "kind": "vllm"})
    assert answer.status_code == 400
    assert (await root.call("PUT", "/fleet/nonsense/lab", {})).status_code in {400, 404}


async def test_who_read_an_old_version_changes_nothing(root: Browser) -> None:
    await root.call("PUT", "/fleet", FLEET)
    path = "/fleet/tiers/gold"
    whole = (await root.call("GET", "/fleet")).headers["etag"]
    etag = (await root.call("GET", path)).headers["etag"]
    assert (await root.call("PUT", path, {"requests_per_minute": 11}, if_match=etag)).status_code == 200
    assert (await root.call("PUT", path, {"requests_per_minute": 12}, if_match=etag)).status_code == 412
    assert (await root.call("DELETE", path, if_match=etag)).status_code == 412
    assert (await root.call("PUT", "/fleet?prune=true", {}, if_match=whole)).status_code == 412
    shown = (await root.call("GET", path)).json()["values"]
    assert shown == {"id": "gold", "requests_per_minute": 11}


async def test_a_secret_is_written_and_never_read(root: Browser, admin: Admin) -> None:
    await root.call("PUT", "/fleet", FLEET)
    canary = "sk-canary-1"
    assert (await root.call("PUT", "/providers/lab/secret", {"secret": canary})).status_code == 204
    assert (await root.call("GET", "/fleet/providers/lab")).json()["with_secret"] is True
    state = await admin.services.fleet.state()
    assert state.with_secret == {"lab"}
    for path in ("/fleet", "/fleet/providers", "/audit", "/audit?action=provider"):
        assert canary not in (await root.call("GET", path)).text
    assert (await root.call("PUT", "/providers/lab/secret", {"secret": "two\nlines"})).status_code == 400
    assert (await root.call("PUT", "/providers/nobody/secret", {"secret": canary})).status_code == 404
    assert (await root.call("DELETE", "/providers/lab/secret")).status_code == 204
    assert (await root.call("GET", "/fleet/providers/lab")).json()["with_secret"] is False
    assert PEPPER  # the box of these tests seals with it


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "[::ffff:169.254.169.254]", "0.0.0.0", "[fe80::1]"])  # noqa: S104
async def test_A07_a_denied_address_is_no_backends(root: Browser, host: str) -> None:
    await root.call("PUT", "/fleet", FLEET)
    values = {"provider": "lab", "base_url": f"http://{host}:8000/v1"}
    answer = await root.call("PUT", "/fleet/backends/b", values)
    assert answer.status_code == 400
    assert "backend `b`: base_url" in answer.json()["error"]["message"]
    assert (await root.call("GET", "/fleet/backends/b")).json()["values"]["base_url"] == FLEET["backends"][0][
        "base_url"
    ]


async def test_a_tier_in_use_is_kept(root: Browser, admin: Admin) -> None:
    await root.call("PUT", "/fleet", FLEET)
    await admin.services.projects.add(Project("lab", "Lab", 1, tier_id="gold"), by=TEST)
    answer = await root.call("DELETE", "/fleet/tiers/gold")
    assert answer.status_code == 409
    assert "lab" in answer.json()["error"]["message"]


async def test_acts_are_read_by_admins_and_by_owners_of_the_project(
    root: Browser, admin: Admin, signed_in: SignedIn
) -> None:
    await root.call("PUT", "/fleet", FLEET)
    await admin.user("owner")
    await admin.user("viewer")
    await admin.project("lab", owner=Role.OWNER, viewer=Role.VIEWER)
    page = (await root.call("GET", "/audit?action=model&limit=1")).json()
    assert [line["action"] for line in page["data"]] == ["model.add"]
    assert page["data"][0]["by"] == {"kind": "user", "id": "user-root", "address": "127.0.0.1"}
    first = (await root.call("GET", "/audit?limit=2")).json()
    second = (await root.call("GET", f"/audit?limit=2&after={first['next']}")).json()
    assert [line["seq"] for line in [*first["data"], *second["data"]]] == list(
        range(first["data"][0]["seq"], first["data"][0]["seq"] - 4, -1)
    )
    assert (await root.call("GET", "/audit/verify")).json()["ok"] is True
    owner, viewer = await signed_in("owner"), await signed_in("viewer")
    assert {line["project"] for line in (await owner.call("GET", "/projects/lab/audit")).json()["data"]} == {"lab"}
    assert (await owner.call("GET", "/audit")).status_code == 403
    assert (await viewer.call("GET", "/projects/lab/audit")).status_code == 403
    last = await admin.services.audit.page(AuditFilter(), before=None, limit=1)
    assert last


async def test_a_machine_is_found_by_its_address_and_tested(root: Browser) -> None:
    async with FakeUpstream() as upstream:
        address = upstream.base_url.removeprefix("http://").removesuffix("/v1")
        found = (await root.call("POST", "/discover", {"address": address})).json()
        assert (found["kind"], found["base_url"]) == ("ollama", upstream.base_url.removesuffix("/v1"))
        assert "fake" in found["models"]
        backend = {"id": "b", "provider": "lab", "base_url": found["base_url"]}
        gone = {"id": "gone", "provider": "lab", "base_url": "http://127.0.0.1:1/v1"}
        await root.call(
            "PUT", "/fleet", {"providers": [{"id": "lab", "kind": found["kind"]}], "backends": [backend, gone]}
        )
        tested = {one["backend"]: one for one in (await root.call("POST", "/providers/lab/test")).json()}
    assert tested["b"]["ok"]
    assert tested["b"]["models"] == found["models"]
    assert not tested["gone"]["ok"]
    assert "nothing listens" in tested["gone"]["error"]
    assert (tested["gone"]["reason"], tested["gone"]["facts"]["place"]) == ("refused", "127.0.0.1:1")
    assert (await root.call("POST", "/providers/none/test")).status_code == 404


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("169.254.169.254", "denied"),
        ("http://[::ffff:169.254.169.254]/", "denied"),
        ("", "no address"),
        ("a b", "no address"),
        ("http://ana:secret@10.0.0.7:8000", "no user and password"),
        ("ana:secret@10.0.0.7", "no user and password"),
    ],
)
async def test_A07_no_denied_address_is_asked(root: Browser, address: str, told: str) -> None:
    answer = await root.call("POST", "/discover", {"address": address})
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1\0",
        "a\0b:80",
        "http://a\0b/v1",
        "http://a/\0",
        "http://a/v1\r\nx: y",
        "a..b",
        "x" * 300,
        "http://[::1",
        "\u20ac",
    ],
)
async def test_text_that_no_address_holds_is_the_callers_fault(root: Browser, address: str) -> None:
    answer = await root.call("POST", "/discover", {"address": address})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("credential", ["a\0b", "a\nb", "\u20ac"])
async def test_a_credential_that_no_header_holds_is_the_callers_fault(root: Browser, credential: str) -> None:
    async with FakeUpstream() as upstream:
        answer = await root.call("POST", "/discover", {"address": upstream.url, "credential": credential})
    assert answer.status_code == 400


async def test_workers_say_what_they_run(root: Browser, admin: Admin) -> None:
    assert (await root.call("GET", "/workers")).json() == []
    await SqlWorkerStore(admin.database).beat(Worker("w1", "here", 7, admin.clock.now_ms(), admin.clock.now_ms(), 3))
    (worker,) = (await root.call("GET", "/workers")).json()
    assert (worker["id"], worker["host"], worker["pid"], worker["revision"]) == ("w1", "here", 7, 3)


@pytest.mark.parametrize("endpoint", ["/chat/completions", "/completions/", "/embeddings", "/models", "/api/chat"])
async def test_the_address_of_an_endpoint_is_no_base_url(root: Browser, endpoint: str) -> None:
    await root.call("PUT", "/fleet", FLEET)
    values = {"provider": "lab", "base_url": f"http://10.0.0.9:8000/v1{endpoint}"}
    answer = await root.call("PUT", "/fleet/backends/b", values)
    assert answer.status_code == 400
    assert "must be the address before" in answer.json()["error"]["message"]
    assert (await root.call("GET", "/fleet/backends/b")).json()["values"]["base_url"] == FLEET["backends"][0][
        "base_url"
    ]
