"""How pages are laid out in a real browser: tiles leave no hole, and whatever can be read stands in a landmark."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe

from tests.console.browser import DESKTOP, PHONE, Console, Tab
from tests.console.demo import INVITATION, PROJECT
from tests.console.places import SPOTS

pytestmark = pytest.mark.asyncio(loop_scope="session")

_HOLES = """
() => [...document.querySelectorAll("dl.stats")].map((list) => {
  const box = list.getBoundingClientRect();
  const tiles = [...list.children].map((tile) => tile.getBoundingClientRect());
  const rows = new Map();
  for (const tile of tiles) rows.set(Math.round(tile.top), Math.max(rows.get(Math.round(tile.top)) ?? 0, tile.right));
  return Math.max(...[...rows.values()].map((right) => box.right - right));
})
"""
_LANDMARKS = {
    "runOnly": {
        "type": "rule",
        "values": [
            *("region", "landmark-unique", "landmark-one-main", "landmark-no-duplicate-banner"),
            *("landmark-no-duplicate-main", "landmark-banner-is-top-level", "landmark-complementary-is-top-level"),
        ],
    }
}


async def _ask(console: Console) -> None:
    body = {"model": "granite3.3:8b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    assert (await console.process.post("/v1/chat/completions", body)).status == 200


@pytest.mark.parametrize("width", [DESKTOP, 1024, PHONE])
async def test_tiles_fill_their_rows_however_many_they_are(console: Console, width: int) -> None:
    await _ask(console)
    async with console.tab("root", width=PHONE if width == PHONE else DESKTOP) as tab:
        await tab.page.set_viewport_size({"width": width, "height": 844})
        for path in (
            "/projects/default/overview",  # seven: the project has no credit
            f"/projects/{PROJECT}/overview",
            f"/projects/{PROJECT}/billing",
            "/admin/fleet",
            "/admin/fleet/machines/ma01",
            "/admin/fleet/models/granite3.3:8b",
            f"/admin/projects/{PROJECT}",
        ):
            await tab.go(path)
            holes = await tab.page.evaluate(_HOLES)
            assert holes, path
            assert max(holes) <= 2, (path, holes)


async def _outside(tab: Tab) -> list[str]:
    found: list[dict[str, Any]] = (await Axe().run(tab.page, options=_LANDMARKS)).response["violations"]
    return [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize(("width", "address"), [(DESKTOP, ""), (PHONE, ""), (PHONE, "#side")])
async def test_all_that_can_be_read_stands_in_a_landmark(console: Console, width: int, address: str) -> None:
    async with console.tab("owner", width=width) as tab:
        for path in (f"/projects/{PROJECT}/overview", f"/projects/{PROJECT}/usage", "/profile", "/docs", "/status"):
            await tab.go(f"{path}{address}")
            assert await _outside(tab) == [], path
    async with console.tab(width=width) as tab:
        for path in ("/", "/sign-in", "/join?invitation=x", "/docs/keys", "/nothing"):
            await tab.go(path)
            assert await _outside(tab) == [], path


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
async def test_an_invitation_in_a_browser_names_what_it_is_for_and_a_dead_one_asks_nothing(
    console: Console, width: int
) -> None:
    async with console.tab(width=width) as tab:
        await tab.go(f"/join?invitation={INVITATION}")
        shown = await tab.text()
        for said in ("Join Assistants", "Ana Serrano", "Developer", "mei@example.org"):
            assert said in shown
        await tab.page.fill("#name", "Mei")
        await tab.page.fill("#password", "short")
        await tab.click("main button.primary")
        assert await tab.page.input_value("#name") == "Mei"
        assert "Join Assistants" in await tab.text()
        await tab.go("/join?invitation=invented")
        assert "This invitation cannot be used" in await tab.text()
        assert await tab.page.locator("main form").count() == 0
        assert await tab.severe_findings() == []


_BROKEN = """
() => {
  const broken = [];
  const walker = document.createTreeWalker(document.querySelector("main table tbody"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.parentElement.checkVisibility()) continue;
    for (const word of node.data.matchAll(/[^\\s@._:\\/<>-]{2,}/g)) {  // a line may end before each of these or after it
      if (word[0].length > 16) continue;  // an id
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (lines.size > 1) broken.push(word[0]);
    }
  }
  return broken;
}
"""


@pytest.mark.parametrize("width", [DESKTOP, 1024, PHONE])
async def test_no_word_is_broken_in_the_audit_log_and_the_settings(console: Console, width: int) -> None:
    async with console.tab("root", width=PHONE if width == PHONE else DESKTOP) as tab:
        await tab.page.set_viewport_size({"width": width, "height": 844})
        for path in ("/admin/audit?by=user-root", "/admin/audit", "/admin/settings"):
            await tab.go(path)
            assert await tab.page.evaluate(_BROKEN) == [], path
            assert await tab.overflow_px() <= 0, path


_SIDEWAYS = """
() => [...document.querySelectorAll(".table-box")].filter((box) => box.scrollWidth > box.clientWidth).length
"""


async def test_tables_fit_beside_the_menu_of_a_small_screen(console: Console) -> None:
    await _ask(console)
    async with console.tab("root") as tab:
        await tab.page.set_viewport_size({"width": 1024, "height": 768})
        for spot in SPOTS:
            if spot.reader == "":
                continue
            await tab.go(spot.path)
            assert await tab.page.evaluate(_SIDEWAYS) == 0, spot.path
            assert await tab.overflow_px() <= 0, spot.path
