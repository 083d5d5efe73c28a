"""Every page by keyboard alone: Tab comes to all that can be used, in the order in which it stands, and shows where it is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.console.browser import Console, Tab
from tests.console.places import SPOTS

pytestmark = pytest.mark.asyncio(loop_scope="session")
READERS = sorted({spot.reader for spot in SPOTS})
_NUMBER = """
() => {
  const can = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']";
  const all = [...document.querySelectorAll(can)].filter((e) => e.checkVisibility() && !e.disabled && e.tabIndex >= 0);
  // Of a group of radio buttons Tab comes to one.
  const used = all.filter((e) => e.type !== "radio" || e.checked
    || (!document.querySelector(`input[name="${e.name}"]:checked`) && document.querySelector(`input[name="${e.name}"]`) === e));
  used.forEach((e, n) => { e.dataset.stop = n; });
  return used.map((e) => e.outerHTML.slice(0, 120));
}
"""
_FROM_THE_START = """
() => { document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute("tabindex"); }
"""
_HERE = """
() => {
  const e = document.activeElement;
  const ring = [e, e.parentElement, e.nextElementSibling, ...e.querySelectorAll("*")].filter(Boolean).some((one) => {
    const style = getComputedStyle(one);
    return (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== "none";
  });
  return {stop: e.dataset?.stop, ring};
}
"""


@pytest.mark.parametrize("reader", READERS)
async def test_tab_comes_to_all_that_can_be_used(console: Console, reader: str) -> None:
    wrong: list[str] = []
    async with console.tab(reader) as tab:
        for spot in SPOTS:
            if spot.reader == reader:
                await tab.go(spot.path)
                wrong += [f"{spot.name}: {fault}" for fault in await _faults(tab)]
    assert wrong == [], "\n".join(wrong)


async def _faults(tab: Tab) -> list[str]:
    elements: list[str] = await tab.page.evaluate(_NUMBER)
    await tab.page.evaluate(_FROM_THE_START)
    order: list[int] = []
    faults: list[str] = []
    while len(order) < len(elements):
        await tab.page.keyboard.press("Tab")
        here: dict[str, Any] = await tab.page.evaluate(_HERE)
        if here["stop"] is None:
            break
        number = int(here["stop"])
        if order and number == order[-1]:
            continue  # a date has several parts
        if order and number < order[-1]:
            faults.append(f"goes back to {elements[number]}")
            break
        if not here["ring"]:
            faults.append(f"does not show that it is at {elements[number]}")
        order.append(number)
    missed = set(range(len(elements))) - set(order)
    return [*faults, *(f"never comes to {elements[number]}" for number in sorted(missed))]
