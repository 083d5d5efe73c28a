"""Names of a hundred letters and names written from right to left, on a wide screen and on a phone: numbers stay on screen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Deployment, Model, ModelKind
from tests.console.browser import DESKTOP, PHONE, Console

pytestmark = pytest.mark.asyncio(loop_scope="session")
LONG = "organisation/" + "a-model-with-a-very-long-name-and-no-place-to-break-it_" + "Instruct.Q4_K_M" + "x" * 25
RIGHT_TO_LEFT = "نموذج-لغوي-عربي"
PROJECT = "/projects/research"
PAGES = [
    f"{PROJECT}/usage/requests",
    f"{PROJECT}/keys",
    f"{PROJECT}/usage?by=key",
    f"{PROJECT}/usage?by=model",
    f"{PROJECT}/usage?by=end-user",
    f"{PROJECT}/overview",
    f"{PROJECT}/models",
    "/admin/fleet",
    "/admin/prices",
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def named(console: Console) -> AsyncIterator[Console]:
    assert len(LONG) == 108
    installation = await console.process.installation()
    present = await installation.catalogue.fleet()
    names = (LONG, RIGHT_TO_LEFT)
    more = Fleet(
        models=tuple(Model(name, ModelKind.CHAT, 0) for name in names),
        deployments=tuple(Deployment(name, present.backends[0].id, name) for name in names),
    )
    await installation.catalogue.apply(more, now_ms=installation.clock.now_ms(), prune=False)
    async with httpx.AsyncClient(base_url=console.process.url, timeout=30) as http:
        for model in names:
            token, _ = await installation.create_key(project_id="research", name=model)
            body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "user": model}
            headers = {"authorization": f"Bearer {token}"}
            async with asyncio.timeout(20):  # workers follow a change within a second
                while (await http.post("/v1/chat/completions", json=body, headers=headers)).status_code != 200:
                    pass
    yield console
    gone = [("deployment", f"{name}@{present.backends[0].id}") for name in names] + [("model", name) for name in names]
    await installation.catalogue.apply(Fleet(), now_ms=installation.clock.now_ms(), prune=False, remove=gone)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", PAGES)
async def test_long_names_leave_numbers_on_screen(named: Console, path: str) -> None:
    async with named.tab("root", width=DESKTOP) as tab:
        await tab.go(path)
        assert LONG in (await tab.page.inner_text("main")).replace("\n", "")
        beyond = await tab.page.evaluate(
            "[...document.querySelectorAll('.table-box')].map(box => box.scrollWidth - box.clientWidth)"
        )
        assert [px for px in beyond if px > 1] == []
        assert await tab.overflow_px() == 0
        over = await tab.page.evaluate(
            "[...document.querySelectorAll('main td, main tbody th')].filter(e => e.scrollWidth > e.clientWidth + 1)"
            ".map(e => e.textContent.trim().slice(0, 80))"
        )
        assert over == []
        await tab.page.set_viewport_size({"width": PHONE, "height": 844})
        assert await tab.overflow_px() == 0
        wide = await tab.page.evaluate(
            "[...document.querySelectorAll('main td, main tbody th')]"
            ".filter(e => e.getBoundingClientRect().right > innerWidth).length"
        )
        assert wide == 0
        assert tab.faults == []


async def test_usual_words_stay_whole_beside_long_names(named: Console) -> None:
    async with named.tab("root") as tab:
        await tab.go(f"{PROJECT}/usage/requests")
        heights = await tab.page.evaluate(
            "[...document.querySelectorAll('tbody tr td:nth-child(3) > *')].map(e => e.getBoundingClientRect().height)"
        )
        assert all(height < 40 for height in heights)


async def test_what_scrolls_sideways_is_reached_by_keyboard(named: Console) -> None:
    async with named.tab("root", width=DESKTOP) as tab:
        await tab.go(f"{PROJECT}/usage/requests")
        assert await tab.page.get_attribute(".table-box", "tabindex") is None
        await tab.page.set_viewport_size({"width": 660, "height": 900})
        box = tab.page.locator(".table-box")
        assert await box.evaluate("box => box.scrollWidth > box.clientWidth")
        await tab.page.wait_for_selector(".table-box[tabindex='0']")
        await box.focus()
        await tab.page.keyboard.press("ArrowRight")
        async with asyncio.timeout(10):
            while await box.evaluate("box => box.scrollLeft") == 0:
                pass
