"""Usage by the admin API: sums, rows and exports of the project in the path, and nothing of any other."""

from __future__ import annotations

import csv
import io
import json

import pytest

from llmaas.domain.exports import ROW_COLUMNS
from llmaas.domain.members import Role
from tests.console.site import Admin, Browser
from tests.storage.recording import keep
from tests.storage.rows import row

DAY_MS = 86_400_000


async def filled(admin: Admin) -> tuple[Browser, str, str]:
    """A client, and what a viewer of `lab` and an admin send. `shop` has rows with a word that `lab` must never see."""
    viewer, root = await admin.user("vera"), await admin.user("root", admin=True)
    await admin.project("lab", vera=Role.VIEWER)
    await admin.project("shop")
    now_ms = admin.clock.now_ms()
    await keep(
        admin.database,
        [
            row(id=f"lab-{n}", project_id="lab", started_ms=now_ms - n, end_user="=1+1", energy_uwh=1_000_000)
            for n in range(5)
        ]
        + [row(id="lab-old", project_id="lab", started_ms=now_ms - 200 * DAY_MS, model_id="old")]
        + [
            row(id=f"foreign-{n}", project_id="shop", key_id="foreign", model_id="foreign", started_ms=now_ms - n)
            for n in range(3)
        ],
    )
    return admin.client(), await admin.token(viewer), await admin.token(root)


async def test_sums_are_of_this_month_unless_told(admin: Admin) -> None:
    client, viewer, _ = await filled(admin)
    answer = (await client.call("GET", "/projects/lab/usage", authorization=viewer)).json()
    assert answer["from"] == "2025-06-01T00:00:00.000Z"
    (total,) = answer["data"]
    assert (total["model"], total["requests"], total["total_tokens"], total["estimated_wh"]) == ("m", 5, 40, "5.0")
    assert (total["mean_ttft_ms"], total["cost"], total["currency"]) == (10, "0.00", "EUR")
    assert total["unpriced_requests"] == 5
    answer = (
        await client.call("GET", "/projects/lab/usage?from=2000-01-01&by=model,month", authorization=viewer)
    ).json()
    assert [(s["model"], s["month"], s["requests"]) for s in answer["data"]] == [
        ("m", "2025-06", 5),
        ("old", "2024-11", 1),
    ]


async def test_classes_of_tokens(admin: Admin) -> None:
    client, viewer, _ = await filled(admin)
    answer = (await client.call("GET", "/projects/lab/usage?by=token-type", authorization=viewer)).json()
    assert {s["token_type"]: s["tokens"] for s in answer["data"]} == {
        "input": 15,
        "cached_input": 0,
        "output": 25,
        "reasoning": 0,
    }
    assert {s["unpriced_requests"] for s in answer["data"]} == {5}


async def test_rows_come_in_pages(admin: Admin) -> None:
    client, viewer, _ = await filled(admin)
    seen: list[str] = []
    path = "/projects/lab/usage/rows?limit=4"
    page = (await client.call("GET", path, authorization=viewer)).json()
    seen += [each["id"] for each in page["data"]]
    assert list(page["data"][0]) == list(ROW_COLUMNS)
    page = (await client.call("GET", f"{path}&after={page['next']}", authorization=viewer)).json()
    seen += [each["id"] for each in page["data"]]
    assert page["next"] is None
    assert seen == [*(f"lab-{n}" for n in range(5)), "lab-old"]


async def test_A02_an_export_holds_every_row_and_no_formula(admin: Admin) -> None:
    client, viewer, _ = await filled(admin)
    answer = await client.call("GET", "/projects/lab/usage/export", authorization=viewer)
    assert answer.headers["content-disposition"] == 'attachment; filename="usage-lab.csv"'
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    head, *lines = csv.reader(io.StringIO(answer.text))
    assert head == list(ROW_COLUMNS)
    assert len(lines) == 6
    assert not [cell for line in lines for cell in line if cell.startswith(("=", "+", "-", "@"))]
    answer = await client.call("GET", "/projects/lab/usage/export?format=jsonl", authorization=viewer)
    assert [json.loads(line)["end_user"] for line in answer.text.splitlines()][:2] == ["=1+1", "=1+1"]


PATHS = ["", "/rows", "/export", "/export?format=jsonl"]


@pytest.mark.parametrize("path", PATHS)
async def test_A15_no_byte_of_another_project(admin: Admin, path: str) -> None:
    client, viewer, root = await filled(admin)
    foreign = await client.call("GET", f"/projects/shop/usage{path}", authorization=viewer)
    unknown = await client.call("GET", f"/projects/nowhere/usage{path}", authorization=viewer)
    assert (foreign.status_code, unknown.status_code) == (404, 404)
    assert foreign.text == unknown.text.replace("nowhere", "shop")
    query = "&" if "?" in path else "?"
    for trick in ("project=shop", "project_id=shop", "id=foreign-1", "key=foreign", "by=project,key", "after=9:z"):
        answer = await client.call("GET", f"/projects/lab/usage{path}{query}{trick}", authorization=viewer)
        assert "foreign" not in answer.text, trick
        assert "shop" not in answer.text, trick
    assert (await client.call("GET", f"/usage{path}", authorization=viewer)).status_code == 403
    assert "foreign" in (await client.call("GET", f"/usage{path}{query}by=key", authorization=root)).text
    assert (await client.call("GET", f"/projects/nowhere/usage{path}", authorization=root)).status_code == 404


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("by=colour", "by"),
        ("from=soon", "from"),
        ("from=10000-01-01", "from"),
        ("to=2026-02-31", "to"),
        ("by=end-user&from=2000-01-01", "from"),
        ("by=tier&to=2026-01-01", "from"),
    ],
)
async def test_what_cannot_be_is_told(admin: Admin, query: str, param: str) -> None:
    client, viewer, _ = await filled(admin)
    answer = await client.call("GET", f"/projects/lab/usage?{query}", authorization=viewer)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", PATHS)
async def test_a_name_that_nothing_ever_had_is_told(admin: Admin, path: str) -> None:
    client, viewer, root = await filled(admin)
    for where, authorization in (("/projects/lab", viewer), ("", root)):
        for name in ("model", "key", "backend", "member"):
            query = f"{'&' if '?' in path else '?'}{name}=nosuch"
            answer = await client.call("GET", f"{where}/usage{path}{query}", authorization=authorization)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, name)
            assert error["message"] == f"There is no such {name}, and no usage of one."
        answer = await client.call(
            "GET", f"{where}/usage{path}{'&' if '?' in path else '?'}outcome=great", authorization=authorization
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "outcome")


async def test_a_name_that_something_has_or_had_is_no_mistake(admin: Admin) -> None:
    client, viewer, root = await filled(admin)
    for query in ("model=old", "backend=b", "member=user-vera", "outcome=completed", "end_user=nobody", "id=nothing"):
        answer = await client.call("GET", f"/projects/lab/usage?{query}", authorization=viewer)
        assert answer.status_code == 200, (query, answer.text)
    assert (await client.call("GET", "/usage?key=foreign&member=user-root", authorization=root)).status_code == 200
    foreign = await client.call("GET", "/projects/lab/usage?key=foreign", authorization=viewer)
    assert foreign.status_code == 400, "of another project"


async def test_the_ends_of_the_calendar_can_be_asked_for(admin: Admin) -> None:
    client, viewer, _ = await filled(admin)
    for first in ("9999-12-31T23:59:59.999999%2B00:00", "0001-01-01"):
        answer = await client.call("GET", f"/projects/lab/usage?from={first}&by=month", authorization=viewer)
        assert answer.status_code == 200


async def test_a_cursor_of_somebody_else_is_refused(admin: Admin) -> None:
    client, viewer, _ = await filled(admin)
    answer = await client.call("GET", "/projects/lab/usage/rows?after=nonsense", authorization=viewer)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")


async def test_sums_by_end_user_are_of_a_month_at_most(admin: Admin) -> None:
    client, viewer, _ = await filled(admin)
    answer = (await client.call("GET", "/projects/lab/usage?by=end-user", authorization=viewer)).json()
    assert [(s["end_user"], s["requests"]) for s in answer["data"]] == [("=1+1", 5)]
