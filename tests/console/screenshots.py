"""Photographs of every page of the demo: light on a desk, dark on a phone. Those that documents show go beside them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from playwright.async_api import async_playwright

from tests.console.browser import ARGUMENTS, CHROMIUM, DESKTOP, PHONE, Console, Theme
from tests.console.demo import answer_slowly, fill
from tests.console.places import SPOTS
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess

ROOT = Path(__file__).parents[2]
SHOWN = ("overview", "keys", "usage", "models", "fleet", "playground")
"""Pages whose picture on a desk a document shows. Only these are kept in the repository."""
VIEWS: tuple[tuple[int, Theme, str], ...] = ((DESKTOP, "light", ""), (PHONE, "dark", "-phone"))


def file_of(picture: str) -> Path:
    return ROOT / ("docs" if picture in SHOWN else ".cache") / "screenshots" / f"{picture}.png"


async def take(console: Console, names: Sequence[str]) -> None:
    for spot in SPOTS:
        for width, theme, suffix in VIEWS if not names or spot.name in names else ():
            async with console.tab(spot.reader, width=width, theme=theme) as tab:
                await tab.go(spot.path)
                await tab.page.screenshot(path=file_of(f"{spot.name}{suffix}"), full_page=True)
        print(spot.name)


async def photograph(names: Sequence[str]) -> None:
    for picture in (*SHOWN, "others"):
        file_of(picture).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        async with async_playwright() as playwright, FakeUpstream() as upstream:
            answer_slowly(upstream)
            browser = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
            process = GatewayProcess(Path(folder))
            await fill(await process.installation(), process.data_dir, upstream.base_url)
            await process.start()
            try:
                await take(Console(process, upstream, browser), names)
            finally:
                await process.close()


def main(names: Sequence[str]) -> None:
    """`names`: of the pages; none for all."""
    asyncio.run(photograph(names))
