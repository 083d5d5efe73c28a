"""The life of a model: its dates have an order, and from each on the model is what the date says."""

from __future__ import annotations

import pytest

from llmaas.domain.catalogue import Catalogue
from llmaas.domain.declarations import declare
from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Lifecycle, Model, ModelKind, Phase

LIFE = Lifecycle("production", "2026-01-01", "2026-06-01", "2026-12-01", "new")


@pytest.mark.parametrize(
    ("day", "phase"),
    [
        ("2026-05-31", Phase.PRODUCTION),
        ("2026-06-01", Phase.DEPRECATED),
        ("2026-11-30", Phase.DEPRECATED),
        ("2026-12-01", Phase.RETIRED),
        ("2030-01-01", Phase.RETIRED),
    ],
)
def test_a_date_that_has_come_moves_the_phase(day: str, phase: Phase) -> None:
    assert LIFE.on(day).phase == phase


def test_no_date_takes_a_phase_back() -> None:
    assert Lifecycle("retired", deprecated="2020-01-01").on("2026-01-01").phase == Phase.RETIRED
    assert Lifecycle("deprecated", deprecated="2030-01-01").on("2026-01-01").phase == Phase.DEPRECATED


def test_a_model_is_retired_on_its_day() -> None:
    models = (Model("old", ModelKind.CHAT, 0, ("o",), lifecycle=LIFE), Model("new", ModelKind.CHAT, 0))
    declared = Catalogue(revision=1, models=models, providers=(), backends=(), deployments=())
    before, after = declared.on("2026-11-30"), declared.on("2026-12-01")
    assert [entry.model.id for entry in before.listed()] == ["old", "new"]
    assert [entry.model.id for entry in after.listed()] == ["new"]
    found = after.resolve("o")
    assert found is not None
    assert found.model.id == "new"


@pytest.mark.parametrize(
    ("days", "fault"),
    [
        (
            {"deprecated": "2026-06-01", "retires": "2026-05-31"},
            "retires is 2026-05-31, before deprecated (2026-06-01)",
        ),
        ({"released": "2026-06-01", "retires": "2026-05-31"}, "retires is 2026-05-31, before released (2026-06-01)"),
        ({"released": "2026-06-01", "deprecated": "2026-05-31"}, "deprecated is 2026-05-31, before released"),
        ({"released": "2026-06-01", "deprecated": "2026-06-01", "retires": "2026-06-01"}, ""),
    ],
)
def test_dates_of_a_life_have_an_order(days: dict[str, str], fault: str) -> None:
    _, mistakes = declare({"models": [{"id": "m", "lifecycle": days}]}, Fleet())
    assert [mistake.message for mistake in mistakes if fault not in mistake.message] == []
    assert bool(mistakes) == bool(fault)
