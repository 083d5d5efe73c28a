"""Nobody is offered what they may not do: every link and every form of every page that a reader comes to is theirs to use."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

import pytest
from litestar import Litestar

from llmaas.console.application import build_litestar
from llmaas.domain.members import Role
from llmaas.domain.permissions import RULES, Permission
from tests.console.lab import Lab
from tests.console.matrix import Declared, declared, declared_pages
from tests.console.reading import Shown

READERS = {"viewer": Role.VIEWER, "dev": Role.DEVELOPER, "owner": Role.OWNER, "root": None}
PLAYGROUND = "/projects/{project_id:str}/playground"
_MOST_PAGES = 400


def offered(page: Shown) -> set[tuple[str, str]]:
    """Method and path of each link and form within this site."""
    found = {("GET", link.get("href", "")) for link in page.root.iter("a")}
    found |= {(form.get("method", "get").upper(), form.get("action") or page.path) for form in page.root.iter("form")}
    whole = {(method, urlsplit(urljoin(page.path, path))) for method, path in found if not path.startswith("#")}
    return {(method, path.path) for method, path in whole if not path.netloc and method in {"GET", "POST"}}


def declared_for(app: Litestar, method: str, path: str) -> Declared | None:
    fitting = [
        one
        for one in (*declared_pages(app), *declared(app))
        if one.method == method and re.fullmatch(_pattern(one.path), path)
    ]
    return min(fitting, key=lambda one: one.path.count("{"), default=None)


def _pattern(path: str) -> str:
    return re.sub(r"\\?\{\w+:(str|path)\\?\}", lambda part: "[^/]+" if part[1] == "str" else ".+", path)


@pytest.mark.parametrize("name", READERS)
async def test_A01_what_a_reader_is_offered_is_theirs_to_do(lab: Lab, name: str) -> None:
    await lab.key("of-dev2", owner="dev2")
    await lab.asked(lab.row(1))
    app = build_litestar(lab.admin.services)
    reader = await lab.reader(name)
    role = READERS[name]
    seen: set[tuple[str, str]]
    wrong: list[str]
    waiting, seen, wrong = ["/projects/lab/overview", "/projects/empty/overview"], set(), []
    while waiting and len(seen) < _MOST_PAGES:
        page = await reader.get(waiting.pop(0))
        assert page.status == 200, page.path
        for method, path in sorted(offered(page) - seen):
            seen.add((method, path))
            one = declared_for(app, method, path)
            if one is None:
                wrong.append(f"{page.path} offers {method} {path}, which is not there")
            elif isinstance(one.permission, Permission):
                of = role if one.of_project or path.startswith("/welcome") else None
                may = RULES[one.permission].allows(admin=name == "root", role=of)
                if not may or (one.path == PLAYGROUND and name == "viewer"):
                    wrong.append(f"{page.path} offers {method} {path}, which the {name} may not do")
                elif method == "GET" and not path.startswith(("/api/", "/static/")):
                    waiting.append(path)
    assert wrong == []
    assert len(seen) > 20
