"""A session that ends in the middle of a form: nothing is done, and who signs in again finds what was typed, but no secrets."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import llmaas.console
from llmaas.console.pages.fields import SECRETS
from llmaas.console.pages.routes import PAGES
from tests.console.lab import Lab
from tests.console.reading import Reader, Shown, values_of
from tests.console.site import ORIGIN, PASSWORD

TEMPLATES = Path(llmaas.console.__file__).parent / "templates"
KEYS = "/projects/lab/keys"


async def _sent_late(lab: Lab, reader: Reader, path: str, **values: str) -> Shown:
    """The form of a page, sent after the session ended."""
    page = await reader.get(path)
    reader.browser.http.cookies.clear()
    form = page.form()
    reader.browser.http.headers["referer"] = f"{ORIGIN}{path}"
    shown = await reader.post(form.get("action") or path, {**values_of(form), **values})
    del reader.browser.http.headers["referer"]
    return shown


async def _signed_in_again(reader: Reader, page: Shown, name: str) -> Shown:
    return await reader.send(page, email=f"{name}@example.org", password=PASSWORD)


async def test_a_form_is_filled_in_as_it_was_left(lab: Lab) -> None:
    reader = await lab.reader("owner")
    late = await _sent_late(lab, reader, f"{KEYS}/new", name="Café ☕", budget_total="7,50", models=["granite3.3:8b"])  # type: ignore[arg-type]
    assert late.status == 401
    assert "session had ended" in late.text
    wrong = await reader.send(late, email="owner@example.org", password="not that one at all")
    resumed = await _signed_in_again(reader, wrong, "owner")
    form = await reader.send(resumed)
    assert (form.path, form.status) == (f"{KEYS}/new", 422)
    assert "signed in again" in form.text
    values = values_of(form.form())
    assert (values["name"], values["budget_total"], values["models"]) == ("Café ☕", "7,50", ["granite3.3:8b"])
    assert len(await lab.admin.services.keys.page("lab", after=None, limit=9)) == 1
    assert (await reader.send(form)).status == 200
    assert len(await lab.admin.services.keys.page("lab", after=None, limit=9)) == 2


@pytest.mark.parametrize(
    ("path", "values", "expected"),
    [
        ("/projects/lab/billing", {"low_credit": "3"}, {"low_credit": "3"}),
        ("/projects/lab/members/user-dev", {"role": "viewer"}, {"role": "viewer"}),
        ("/admin/tiers/basic", {"monthly_cap": "70"}, {"monthly_cap": "70"}),
        ("/admin/users/user-dev", {"name": "New"}, {"name": "New"}),
        ("/admin/providers/lab/edit", {"extra_parameters": "top_k"}, {"extra_parameters": "top_k"}),
        ("/admin/providers/new", {"id": "p", "secret": "sk-secret-1"}, {"id": "p"}),
        ("/profile", {"name": "Me"}, {"name": "Me"}),
    ],
)
async def test_nothing_is_done_for_who_is_back_until_the_form_is_sent(
    lab: Lab, path: str, values: dict[str, str], expected: dict[str, str]
) -> None:
    reader = await lab.reader("root")
    late = await _sent_late(lab, reader, path, **values)
    resumed = await _signed_in_again(reader, late, "root")
    assert "sk-secret-1" not in late.text + resumed.text
    fleet = (await lab.admin.services.fleet.state()).fleet
    form = await reader.send(resumed)
    assert form.status == 422
    shown = {name: value for one in form.main.iter("form") for name, value in values_of(one).items()}
    assert {name: shown[name] for name in expected} == expected
    assert (await lab.admin.services.fleet.state()).fleet == fleet
    project = await lab.admin.services.projects.get("lab")
    assert project is not None
    assert project.low_credit_nano is None


async def test_who_only_pressed_a_button_comes_back_to_its_page(lab: Lab) -> None:
    reader = await lab.reader("owner")
    path = f"{KEYS}/{lab.keys['bot'].id}/revoke"
    late = await _sent_late(lab, reader, path)
    assert (late.status, "session had ended" in late.text) == (401, True)
    back = await _signed_in_again(reader, late, "owner")
    assert back.path == path
    key = await lab.admin.services.keys.get(lab.keys["bot"].id)
    assert key is not None
    assert key.revoked_ms is None


async def test_A12_a_form_of_another_site_is_not_kept(lab: Lab) -> None:
    client = lab.admin.client().http
    headers = {"accept": "text/html", "origin": "https://evil.example"}
    answer = await client.post(f"{KEYS}/new", data={"name": "theirs"}, headers=headers)
    assert answer.status_code == 401
    assert 'name="typed"' not in answer.text


async def test_what_was_typed_is_kept_for_an_hour(lab: Lab) -> None:
    reader = await lab.reader("owner")
    late = await _sent_late(lab, reader, f"{KEYS}/new", name="late")
    lab.admin.clock.advance(3_601)
    assert (await _signed_in_again(reader, late, "owner")).path == f"{KEYS}/new"


def test_no_secret_field_is_ever_filled_in_again() -> None:
    text = "".join(path.read_text() for path in TEMPLATES.rglob("*.html"))
    named = re.findall(r'ui\.field\("(\w+)"[^\n]*type="password"', text)
    assert named
    assert set(named) <= SECRETS


def test_every_form_that_can_come_back_looks_at_its_faults_before_it_acts() -> None:
    for route in PAGES:
        handler = getattr(route, "fn", None)
        source = inspect.getsource(handler) if handler is not None else ""
        if "read_fields" in source:
            looks = re.search(r"fields\.good|form\.faults|RESUMED", source)
            assert looks, handler
