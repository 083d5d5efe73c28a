"""The public status: what everybody may know, from real traffic, at the price of one reading in a few seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from llmaas.control.status.public import Platform
from llmaas.domain.catalogue import Target
from llmaas.domain.usage import ClassSum, Cursor, Grouping, Largest, Ranked, UsageFilter, UsageRow, UsageSum
from llmaas.errors import Unavailable
from tests.console.lab import HOSTILE, Lab
from tests.console.reading import Reader
from tests.console.site import Admin


class _Away:
    """A ledger whose database does not answer."""

    async def sums(self, where: UsageFilter, by: Sequence[Grouping]) -> list[UsageSum]:
        raise Unavailable("The database does not answer.")

    async def class_sums(self, where: UsageFilter, by: Sequence[Grouping]) -> list[ClassSum]:
        raise Unavailable("The database does not answer.")

    async def largest(
        self, where: UsageFilter, by: Grouping, ranked: Ranked, time: Grouping, *, limit: int, drawn: int
    ) -> Largest:
        raise Unavailable("The database does not answer.")

    async def requests_from_rows(self, where: UsageFilter, by: Sequence[Grouping]) -> dict[str, int]:
        raise Unavailable("The database does not answer.")

    async def page(self, where: UsageFilter, *, limit: int, after: Cursor | None = None) -> list[UsageRow]:
        raise Unavailable("The database does not answer.")

    def rows(self, where: UsageFilter, limit: int | None = None) -> AsyncIterator[UsageRow]:
        raise Unavailable("The database does not answer.")


async def _status(lab: Lab, query: str = "") -> Any:
    answer = await lab.admin.client().http.get(f"/api/platform-status{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def _targets(lab: Lab, model_id: str) -> tuple[Target, ...]:
    return lab.admin.services.live.catalogue.entries[model_id].targets


async def test_anybody_sees_models_with_speeds_of_real_traffic(lab: Lab) -> None:
    rows = [lab.row(n, days_ago=0.01 * n, ttft_ms=100 + n, duration_ms=5_100 + n) for n in range(1, 5)]
    failed = lab.row(9, outcome="engine_failed", ttft_ms=9, error_code="engine_error", cost_nano=0, output_tokens=0)
    await lab.asked(*rows, failed)
    status = await _status(lab)
    shown = {model["id"]: model for model in status["models"]}
    assert (status["operational"], status["total"], status["state"]) == (3, 4, "degraded")
    assert shown["granite3.3:8b"] == {
        "id": "granite3.3:8b",
        "ok": True,
        "state": "operational",
        "last_ttft_ms": 101,
        "tokens_per_s": 100,
    }
    assert (shown["idle"]["ok"], shown["idle"]["state"]) == (False, "unserved")
    assert (shown["embed"]["last_ttft_ms"], shown["embed"]["tokens_per_s"]) == (None, None)
    page = await Reader(lab.admin.client()).get("/status")
    assert (page.status, page.row("granite3.3:8b")["Output speed"]) == (200, "100 tokens/s")
    assert HOSTILE not in page.text


async def test_one_model_is_asked_for_by_any_of_its_names(lab: Lab) -> None:
    status = await _status(lab, "?model=GRANITE")
    assert [model["id"] for model in status["models"]] == ["granite3.3:8b"]
    assert status["total"] == 4
    unknown = await lab.admin.client().http.get("/api/platform-status?model=nothing")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_model_that_fails_everywhere_is_down_and_comes_back(lab: Lab) -> None:
    health = lab.admin.services.live.health
    (target,) = _targets(lab, "granite3.3:8b")
    health.failed(target)
    (model,) = (await _status(lab, "?model=granite"))["models"]
    assert (model["ok"], model["state"]) == (False, "down")
    health.succeeded(target)
    (model,) = (await _status(lab, "?model=granite"))["models"]
    assert (model["ok"], model["state"]) == (True, "operational")


async def test_the_ledger_is_read_once_in_some_seconds(lab: Lab) -> None:
    await lab.asked(lab.row(1, days_ago=0.2, ttft_ms=100))
    (before,) = (await _status(lab, "?model=granite"))["models"]
    await lab.asked(lab.row(2, ttft_ms=900))
    (soon,) = (await _status(lab, "?model=granite"))["models"]
    assert soon["last_ttft_ms"] == before["last_ttft_ms"] == 100
    lab.admin.clock.advance(5)
    (later,) = (await _status(lab, "?model=granite"))["models"]
    assert later["last_ttft_ms"] == 900


async def test_it_answers_without_the_database(lab: Lab) -> None:
    services = lab.admin.services
    away = dataclasses.replace(services, platform=Platform(services.live, _Away(), lab.admin.clock))
    answer = await lab.admin.client(away).http.get("/api/platform-status")
    assert answer.status_code == 200
    assert all(model["last_ttft_ms"] is None for model in answer.json()["models"])


@pytest.mark.parametrize("language", ["en", "es", "fr"])
async def test_nothing_published_says_who_can_change_that(admin: Admin, language: str) -> None:
    page = await Reader(admin.client(), language).get("/status")
    assert page.status == 200
    assert {"en": "administrator", "es": "administrador", "fr": "administrateur"}[language] in page.text
