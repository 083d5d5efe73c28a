"""Credit over the admin API: entries, the balance, who may add, and alerts."""

from __future__ import annotations

import pytest

from llmaas.domain.members import Role
from tests.console.site import Admin, SignedIn


@pytest.fixture
async def lab(admin: Admin) -> Admin:
    await admin.user("root", admin=True)
    await admin.user("ana")
    await admin.project("lab", ana=Role.OWNER)
    return admin


async def test_an_admin_adds_credit_once_and_members_see_it(lab: Admin, signed_in: SignedIn) -> None:
    root, ana = await signed_in("root"), await signed_in("ana")
    entry = {"amount": "200.00", "note": "order 7", "idempotency_key": "order-7"}
    first = await root.call("POST", "/projects/lab/credit/entries", entry)
    again = await root.call("POST", "/projects/lab/credit/entries", entry)
    assert first.status_code == 201
    assert again.json() == first.json()
    refund = await root.call("POST", "/projects/lab/credit/entries", {"amount": "-0.50", "kind": "refund"})
    assert refund.status_code == 201
    entries = (await ana.call("GET", "/projects/lab/credit/entries")).json()["data"]
    assert [(each["amount"], each["kind"], each["note"]) for each in entries] == [
        ("-0.50", "refund", ""),
        ("200.00", "top-up", "order 7"),
    ]
    balance = (await ana.call("GET", "/projects/lab/credit")).json()
    assert balance == {"credited": "199.50", "spent": "0.00", "held": "0.00", "left": "199.50", "currency": "EUR"}
    assert (await ana.call("POST", "/projects/lab/credit/entries", entry)).status_code == 403


async def test_more_than_is_left_is_taken_only_on_demand(lab: Admin, signed_in: SignedIn) -> None:
    root = await signed_in("root")
    entry = {"amount": "-0.50", "kind": "correction"}
    refused = await root.call("POST", "/projects/lab/credit/entries", entry)
    assert (refused.status_code, refused.json()["error"]["param"]) == (409, "below_zero")
    taken = await root.call("POST", "/projects/lab/credit/entries", {**entry, "below_zero": True})
    assert taken.status_code == 201
    assert (await root.call("GET", "/projects/lab/credit")).json()["left"] == "-0.50"


@pytest.mark.parametrize(
    ("amount", "kind"), [("0", "top-up"), ("-1", "top-up"), ("1", "refund"), ("1e3", "top-up"), ("--1", "correction")]
)
async def test_amounts_that_make_no_sense_are_refused(lab: Admin, signed_in: SignedIn, amount: str, kind: str) -> None:
    root = await signed_in("root")
    answer = await root.call("POST", "/projects/lab/credit/entries", {"amount": amount, "kind": kind})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "amount"
    assert (await root.call("GET", "/projects/lab/credit/entries")).json()["data"] == []


async def test_a_low_balance_is_an_alert_until_it_is_above_again(lab: Admin, signed_in: SignedIn) -> None:
    root, ana = await signed_in("root"), await signed_in("ana")
    await ana.call("PATCH", "/projects/lab", {"low_credit": "5.00"})
    services = lab.services
    await services.alerts.watch_credit(services.ids, lab.clock.now_ms())  # type: ignore[attr-defined]
    (alert,) = (await ana.call("GET", "/projects/lab/alerts")).json()["data"]
    assert (alert["kind"], alert["resolved"]) == ("low_credit", None)
    await root.call("POST", "/projects/lab/credit/entries", {"amount": "10"})
    await services.alerts.watch_credit(services.ids, lab.clock.now_ms())  # type: ignore[attr-defined]
    (alert,) = (await ana.call("GET", "/projects/lab/alerts")).json()["data"]
    assert alert["resolved"] is not None
