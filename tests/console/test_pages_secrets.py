"""What is shown once: the page that shows it is loaded anew without making another, and by nobody else, and not for long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from tests.console.lab import Lab
from tests.console.reading import Reader, Shown, values_of
from tests.console.site import PASSWORD

Count = Callable[[Lab], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Making:
    """`values` are filled into the form at `path`; `marked`: how what is shown begins."""

    path: str
    values: dict[str, str]
    marked: str
    reader: str = "owner"


async def _keys(lab: Lab) -> int:
    return len(await lab.admin.services.keys.page("lab", after=None, limit=99))


async def _tokens(lab: Lab) -> int:
    return len(await lab.admin.services.tokens.of_user("user-owner", after=None, limit=99))


async def _invitations(lab: Lab) -> int:
    return len(await lab.admin.services.invitations.of_project("lab", after=None, limit=99))


async def _users(lab: Lab) -> int:
    return len(await lab.admin.services.users.page(after=None, limit=99))


async def _channels(lab: Lab) -> int:
    return len(await lab.admin.services.alerts.channels("lab"))


MAKINGS: dict[str, tuple[Making, Count]] = {
    "key": (Making("/projects/lab/keys/new", {"name": "another"}, "llmaas_"), _keys),
    "rotated": (Making("/projects/lab/keys/{bot}/rotate", {"overlap": "overlap_1h"}, "llmaas_"), _keys),
    "token": (Making("/profile/tokens/new", {"name": "laptop"}, "llmaas_pat_"), _tokens),
    "invitation": (Making("/projects/lab/invitations/new", {"email": "new@example.org"}, "http"), _invitations),
    "user": (Making("/admin/users/new", {"email": "new@example.org", "name": "New"}, "", "root"), _users),
    "password": (Making("/admin/users/user-dev2/reset-password", {}, "", "root"), _users),
    "webhook": (Making("/projects/lab/billing/alerts", {"target": "https://hooks.example.org/x"}, ""), _channels),
    "factor": (Making("/profile/second-factor", {"password": PASSWORD}, ""), _users),
}


def _secret(page: Shown) -> str:
    (box,) = [part for part in page.main.iter("div") if part.get("class") == "secret"][:1]
    code = box.find("code")
    assert code is not None
    return code.text or ""


async def _made(lab: Lab, making: Making) -> tuple[Reader, Shown, str]:
    reader = await lab.reader(making.reader)
    page = await reader.get(making.path.format(bot=lab.keys["bot"].id))
    form = page.form()
    shown = await reader.post(form.get("action") or page.path, {**values_of(form), **making.values})
    assert shown.status == 200, shown.text
    return reader, shown, _secret(shown)


@pytest.mark.parametrize("name", MAKINGS)
async def test_a_secret_that_was_made_is_shown_again_and_makes_no_other(lab: Lab, name: str) -> None:
    making, count = MAKINGS[name]
    reader, shown, secret = await _made(lab, making)
    assert secret
    assert secret.startswith(making.marked)
    made = await count(lab)
    for _ in range(2):
        again = await reader.get(shown.path)
        assert (again.status, again.path, _secret(again)) == (200, shown.path, secret)
    assert await count(lab) == made
    assert secret not in shown.path
    assert shown.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", MAKINGS)
async def test_a_secret_is_shown_to_nobody_else_and_not_for_long(lab: Lab, name: str) -> None:
    making, _ = MAKINGS[name]
    reader, shown, secret = await _made(lab, making)
    (cookie,) = [one for one in reader.browser.http.cookies.jar if one.name == "llmaas-revealed"]
    assert secret not in (cookie.value or "")
    other = await lab.reader("root" if making.reader == "owner" else "owner")
    other.browser.http.cookies.set("llmaas-revealed", cookie.value or "")
    assert secret not in (await other.get(shown.path)).text
    lab.admin.clock.advance(601)
    late = await reader.get(shown.path)
    assert secret not in late.text
    assert late.path != shown.path


async def test_recovery_codes_are_shown_again_and_stay_the_same(lab: Lab) -> None:
    import pyotp

    reader, shown, secret = await _made(lab, MAKINGS["factor"][0])
    wrong = await reader.send(shown, code="000000")
    assert _secret(wrong) == secret  # a wrong code does not make it begin anew
    code = pyotp.TOTP(secret).at(lab.now_ms // 1_000)
    done = await reader.send(shown, code=code)
    (codes,) = done.main.iter("pre")
    again = await reader.get(done.path)
    assert [part.text for part in again.main.iter("pre")] == [codes.text]
