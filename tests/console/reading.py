"""Pages as somebody reads them whose browser runs no scripts: words, tables, links, and forms to fill in and send."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin
from xml.etree import ElementTree as ET

import httpx

from tests.console.site import ORIGIN, Browser

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "path", "rect", "use", "wbr"})
_UNSEEN = frozenset({"script", "style", "template"})


class _Parser(HTMLParser):
    """Takes only elements that are closed in order, so a page with a tag too many is an error."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._builder = ET.TreeBuilder()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in _VOID:
            self._builder.end(tag)
        else:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._builder.start(tag, {name: value or "" for name, value in attrs})
        self._builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1] == tag, f"</{tag}> stands where </{self._open[-1]}> is due"
        self._open.pop()
        self._builder.end(tag)

    def handle_data(self, data: str) -> None:
        if self._open:
            self._builder.data(data)

    def finish(self) -> ET.Element:
        self.close()
        assert not self._open, f"not closed: {self._open}"
        return self._builder.close()


def parse(html: str) -> ET.Element:
    parser = _Parser()
    parser.feed(html)
    return parser.finish()


def words(element: ET.Element) -> str:
    """What is read of it, with single spaces."""
    return " ".join("".join(_pieces(element)).split())


def _pieces(element: ET.Element) -> Iterator[str]:
    if element.tag in _UNSEEN:
        return
    yield element.text or ""
    for child in element:
        yield from _pieces(child)
        yield child.tail or ""


@dataclass(frozen=True, slots=True)
class Shown:
    """A page that came. `path`: where it was in the end, after redirects."""

    status: int
    path: str
    headers: httpx.Headers
    root: ET.Element

    @property
    def main(self) -> ET.Element:
        found = self.root.find(".//main")
        assert found is not None
        return found

    @property
    def text(self) -> str:
        """Of its main part."""
        return words(self.main)

    @property
    def heading(self) -> str:
        found = self.main.find(".//h1")
        assert found is not None
        return words(found)

    @property
    def links(self) -> dict[str, str]:
        """Addresses of the main part, by their words."""
        return {words(link): link.get("href", "") for link in self.main.iter("a")}

    def rows(self) -> list[dict[str, str]]:
        """Of all tables but those of charts: cells by the column that they say they are of; the one that names the row under ""."""
        drawn = {id(part) for box in self.main.iter() if "chart-table" in box.get("class", "") for part in box.iter()}
        return [
            {cell.get("data-label", ""): words(cell) for cell in row if cell.tag in {"td", "th"}}
            for body in self.main.iter()
            if body.tag in {"tbody", "tfoot"} and id(body) not in drawn
            for row in body.iter("tr")
        ]

    def row(self, name: str) -> dict[str, str]:
        """The one whose name begins so."""
        found = [row for row in self.rows() if row.get("", "").startswith(name)]
        assert len(found) == 1, f"{len(found)} rows begin with {name!r}: {self.rows()}"
        return found[0]

    def facts(self) -> dict[str, str]:
        """All lists of names and values."""
        facts: dict[str, str] = {}
        for part in self.main.iter("dl"):
            name = ""
            for child in part.iter():
                if child.tag == "dt":
                    name = words(child)
                elif child.tag == "dd":
                    facts[name] = words(child)
        return facts

    def form(self, method: str = "post") -> ET.Element:
        """The first form of the main part that is sent so."""
        found = next((form for form in self.main.iter("form") if form.get("method") == method), None)
        assert found is not None, f"no form with method {method} in {self.text[:500]}"
        return found

    def fault(self, name: str) -> str:
        """What is said to be wrong with a field; "" when nothing is, and only when the field says it to all readers."""
        fields = [part for part in self.main.iter() if part.get("name") == name and part.tag != "button"]
        assert fields, f"there is no field {name}"
        groups = [group for group in self.main.iter("fieldset") if any(part is fields[0] for part in group.iter())]
        field = groups[-1] if fields[0].get("type") in {"checkbox", "radio"} else fields[0]
        told = field.get("aria-describedby", "").split()
        ids = {part.get("id"): part for part in self.main.iter() if part.get("id")}
        faults = [words(ids[i]) for i in told if i in ids and "field-error" in ids[i].get("class", "")]
        assert bool(faults) == (field.get("aria-invalid") == "true") or field.tag == "fieldset"
        return " ".join(faults)


def values_of(form: ET.Element) -> dict[str, Any]:
    """What a browser would send of a form that nobody touched, without its buttons."""
    values: dict[str, Any] = {}
    for part in form.iter():
        name = part.get("name")
        if not name or part.get("disabled") is not None or part.tag == "button":
            continue
        if part.tag == "select":
            options = list(part.iter("option"))
            chosen = [option for option in options if option.get("selected") is not None] or options[:1]
            values[name] = chosen[0].get("value", "") if chosen else ""
        elif part.tag == "textarea":
            values[name] = part.text or ""
        elif part.get("type") == "checkbox":
            if part.get("checked") is not None:
                values.setdefault(name, []).append(part.get("value", "on"))
        elif part.get("type") != "radio" or part.get("checked") is not None:
            values[name] = part.get("value", "")
    return values


@dataclass(slots=True)
class Reader:
    """A signed-in browser without scripts. `language`: what its `accept-language` says."""

    browser: Browser
    language: str = "en"

    async def get(self, path: str, **headers: str) -> Shown:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.browser.http.get(path, headers={**self._headers, **given})
        return await self._follow(answer)

    async def post(self, path: str, values: dict[str, Any]) -> Shown:
        answer = await self.browser.http.post(path, data=values, headers={**self._headers, "origin": ORIGIN})
        return await self._follow(answer)

    async def send(self, page: Shown, **changes: Any) -> Shown:
        """Fill in the page's form and send it. None takes a field away."""
        form = page.form()
        values = {name: value for name, value in {**values_of(form), **changes}.items() if value is not None}
        return await self.post(urljoin(page.path, form.get("action") or page.path), values)

    @property
    def _headers(self) -> dict[str, str]:
        return {"accept": "text/html", "accept-language": self.language}

    async def _follow(self, answer: httpx.Response) -> Shown:
        while answer.status_code == 303:
            answer = await self.browser.http.get(answer.headers["location"], headers=self._headers)
        path = str(answer.request.url).removeprefix(ORIGIN)
        return Shown(answer.status_code, path, answer.headers, parse(answer.text))
