"""The catalogue as a project sees it: cards with its own prices, filters, and a model's page with programs."""

from __future__ import annotations

import dataclasses

import pytest

from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.ports import Preparation
from llmaas.storage.catalogue import SqlCatalogueStore
from tests.console.lab import FLEET, HOSTILE, Lab
from tests.console.reading import Reader
from tests.console.site import TEST, Engines

MODELS = "/projects/lab/models"


async def test_cards_tell_what_a_model_is_and_what_it_costs_here(lab: Lab) -> None:
    await lab.asked(*(lab.row(n, days_ago=0.1 * n) for n in range(4)))
    reader = await lab.reader("viewer")
    page = await reader.get(MODELS)
    assert "1.00 / 4.00 EUR" in page.text  # the tier's price, not the model's own
    assert "200 ms" in page.text
    assert "100 tokens/s" in page.text  # 500 tokens within 5 s after the first
    other = await reader.get("/projects/empty/models")
    assert "2.00 / 8.00 EUR" in other.text


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("search=IBM", ["granite3.3:8b"]),
        ("search=granite", ["granite3.3:8b"]),
        ("search=apache+IBM", ["granite3.3:8b"]),
        ("kind=embedding", ["embed"]),
        ("capability=tools&kind=chat", ["granite3.3:8b"]),
        ("search=nothing-like-it", []),
        ("kind=none&capability=x", []),
    ],
)
async def test_models_are_searched_and_filtered_by_the_address(lab: Lab, query: str, found: list[str]) -> None:
    page = await (await lab.reader("viewer")).get(f"{MODELS}?{query}")
    assert page.status == 200
    assert [name for name in page.links if name in {"granite3.3:8b", "org/coder:1.5b", "embed", "idle"}] == found
    if not found:
        assert "No model matches." in page.text


async def test_a_model_has_a_page_with_programs_that_can_be_copied(lab: Lab) -> None:
    page = await (await lab.reader("dev")).get(f"{MODELS}/granite3.3:8b")
    assert page.heading == "granite3.3:8b"
    for text in (
        "curl http://console.test/v1/chat/completions",
        "from openai import OpenAI",
        'import OpenAI from "openai"',
    ):
        assert text in page.text
    facts = page.facts()
    assert (facts["Context window"], facts["Also known as"]) == ("60,000 tokens", "granite")
    assert "/projects/lab/playground?model=granite3.3%3A8b" in page.links.values()


async def test_programs_of_a_model_are_of_its_kind(lab: Lab) -> None:
    page = await (await lab.reader("viewer")).get(f"{MODELS}/embed")
    assert "/v1/embeddings" in page.text
    assert not [href for href in page.links.values() if "playground" in href]


async def test_a_programme_in_python_is_python(lab: Lab) -> None:
    page = await (await lab.reader("viewer")).get(f"{MODELS}/granite3.3:8b")
    programs = ["".join(code.itertext()) for code in page.main.iter("code")]
    (python,) = [text for text in programs if text.startswith("import os")]
    compile(python, "program", "exec")


async def test_a_deprecated_model_tells_its_successor_and_its_dates(lab: Lab) -> None:
    page = await (await lab.reader("viewer")).get(f"{MODELS}/org/coder:1.5b")
    assert page.heading == "org/coder:1.5b"
    assert "granite3.3:8b" in page.text
    assert "2025-12-31" in page.text


async def test_charts_show_days_that_were_measured(lab: Lab) -> None:
    await lab.asked(*(lab.row(n, days_ago=1 + n % 2) for n in range(8)))
    page = await (await lab.reader("viewer")).get(f"{MODELS}/granite3.3:8b")
    days = [row[""] for row in page.rows()]
    assert days == ["2025-06-14", "2025-06-13"]
    assert page.rows()[0]["Requests"] == "4"


@pytest.mark.parametrize("model_id", ["none", "other/none", "%3Cb%3E", "a" * 150])
async def test_a_model_that_is_not_there_is_not_found(lab: Lab, model_id: str) -> None:
    page = await (await lab.reader("viewer")).get(f"{MODELS}/{model_id}")
    assert page.status == 404
    assert page.main.find(".//b") is None


async def test_A12_what_a_card_says_is_only_text(lab: Lab) -> None:
    reader = await lab.reader("viewer")
    for path in (MODELS, f"{MODELS}/idle", f"{MODELS}?search=%22%3E%3Cscript%3E"):
        page = await reader.get(path)
        assert page.main.find(".//script") is None
    assert HOSTILE in (await reader.get(f"{MODELS}/idle")).text


@pytest.mark.parametrize("place", ["models", "playground", "overview"])
async def test_before_there_is_a_model_an_admin_is_led_to_the_first(lab: Lab, place: str) -> None:
    tiers = (dataclasses.replace(FLEET.tiers[0], prices=()),)
    await SqlCatalogueStore(lab.admin.database).apply(Fleet(tiers=tiers), now_ms=2, prune=True, by=TEST)
    holder = lab.admin.services.live.holder
    holder.current = await SqlCatalogueStore(lab.admin.database).load()
    first = "/admin/fleet/add"
    assert first in (await (await lab.reader("root")).get(f"/projects/empty/{place}")).links.values()
    assert first not in (await (await lab.reader("viewer")).get(f"/projects/empty/{place}")).links.values()


@pytest.mark.parametrize(
    ("told", "in_project", "in_fleet"),
    [
        (Preparation("pulling", 0.459), "Loading, 45 %", "Loading"),
        (Preparation("starting", None), "Loading", "Loading"),
        (Preparation("failed", None), "Down", "Failing"),
        (None, "Operational", "Working"),
    ],
)
async def test_a_model_that_is_being_loaded_says_how_far(
    lab: Lab, told: Preparation | None, in_project: str, in_fleet: str
) -> None:
    store, live = SqlCatalogueStore(lab.admin.database), lab.admin.services.live
    here = Fleet(
        providers=(Provider("here", ProviderKind.EMBEDDED),),
        backends=(Backend("here", "here", "", "ma00", "llama.cpp"),),
        deployments=(Deployment("idle", "here", "tiny"),),
    )
    await store.apply(here, now_ms=2, prune=False, by=TEST)
    live.holder.current = await store.load()
    assert isinstance(live.launcher, Engines)
    if told is not None:
        live.launcher.told["tiny"] = told
    reader = await lab.reader("root")
    for place in ("overview", "models", "models/idle"):
        shown = [
            " ".join(one.itertext()) for one in (await reader.get(f"/projects/lab/{place}")).main.findall(".//span")
        ]
        assert in_project in shown, place
    assert (await reader.get("/admin/fleet")).row("idle")["State"] == in_fleet


async def test_programs_name_a_model_that_answers(lab: Lab) -> None:
    services = lab.admin.services
    await SqlCatalogueStore(lab.admin.database).apply(
        Fleet(models=(Model("aa-down", ModelKind.CHAT, 0),), deployments=(Deployment("aa-down", "ma01", "aa-down"),)),
        now_ms=2,
        prune=False,
        by=TEST,
    )
    services.live.holder.current = await SqlCatalogueStore(lab.admin.database).load()
    (target,) = services.live.catalogue.entries["aa-down"].targets
    for _ in range(5):
        services.live.health.failed(target)
    reader = await lab.reader("owner")
    made = await reader.send(await reader.get("/projects/lab/keys/new"), name="bot-2")
    assert "granite3.3:8b" in made.text
    assert "aa-down" not in made.text
    assert "granite3.3:8b" in (await (await lab.reader("root")).get("/welcome/answer?project=lab")).text
    landing = await Reader(lab.admin.client()).get("/")
    assert 'model="granite3.3:8b"' in landing.text
