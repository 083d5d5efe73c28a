"""Where links of invitations lead: one that works says into what, one that does not says why and asks for nothing."""

from __future__ import annotations

import dataclasses

import pytest

from llmaas.domain.invitations import hash_token
from tests.console.lab import DAY_MS, Lab
from tests.console.reading import Reader
from tests.console.site import PASSWORD, PEPPER, TEST


async def invite(lab: Lab, email: str = "guest@example.org") -> str:
    """By the owner of `lab`; the token."""
    browser = (await lab.reader("owner")).browser
    made = await browser.call("POST", "/projects/lab/invitations", {"email": email, "role": "developer"})
    assert made.status_code == 201, made.text
    return str(made.json()["token"])


def stranger(lab: Lab, language: str = "en") -> Reader:
    return Reader(lab.admin.client(), language)


async def test_an_invitation_says_into_what_by_whom_and_as_what(lab: Lab) -> None:
    page = await stranger(lab).get(f"/join?invitation={await invite(lab)}")
    assert page.status == 200
    assert page.heading == "Join Lab"
    facts = page.facts()
    assert facts["Invited by"] == "owner@example.org"
    assert facts["Your role"].startswith("Developer")
    assert facts["For"] == "guest@example.org"
    assert facts["Works until"].startswith("20")
    joined = await stranger(lab).send(page, name="Guest", password=PASSWORD)
    assert joined.path == "/projects/lab/overview"


@pytest.mark.parametrize("language", ["en", "es", "fr"])
@pytest.mark.parametrize("fate", ["invented", "none", "expired", "withdrawn", "accepted", "archived"])
async def test_a_dead_invitation_says_so_and_shows_no_form(lab: Lab, fate: str, language: str) -> None:
    token, services = await invite(lab), lab.admin.services
    found = await services.invitations.find(hash_token(token, PEPPER))
    assert found is not None
    told = {
        "invented": "There is no invitation with this link.",
        "none": "There is no invitation with this link.",
        "expired": "It was not used in time.",
        "withdrawn": "It was withdrawn.",
        "accepted": "It was accepted already.",
        "archived": "It was withdrawn.",
    }[fate]
    if fate == "expired":
        lab.admin.clock.advance(8 * DAY_MS // 1000)
    elif fate == "withdrawn":
        await services.invitations.revoke("lab", found.id, lab.now_ms, by=TEST)
    elif fate == "accepted":
        page = await stranger(lab).get(f"/join?invitation={token}")
        await stranger(lab).send(page, name="Guest", password=PASSWORD)
    elif fate == "archived":
        project = await services.projects.get("lab")
        assert project is not None
        await services.projects.change(project, dataclasses.replace(project, archived_ms=lab.now_ms), by=TEST)
    shown = {"invented": "invented", "none": ""}.get(fate, token)
    reader = stranger(lab, language)
    page = await reader.get(f"/join?invitation={shown}")
    assert page.status == 404
    assert language != "en" or told in page.text
    assert list(page.main.iter("form")) == []
    sent = await reader.post("/join", {"token": shown, "name": "Guest", "password": PASSWORD})
    assert (sent.status, list(sent.main.iter("form"))) == (404, [])


async def test_who_guesses_links_of_invitations_is_slowed_down(lab: Lab) -> None:
    reader = stranger(lab)
    answers = [(await reader.get(f"/join?invitation=guess-{n}")).status for n in range(25)]
    assert answers[:20] == [404] * 20
    assert set(answers[21:]) == {429}


async def test_an_invitation_of_somebody_else_is_not_offered_for_acceptance(lab: Lab) -> None:
    token = await invite(lab, "stranger@example.org")
    other = await (await lab.reader("viewer")).get(f"/join?invitation={token}")
    assert "this invitation is for stranger@example.org" in other.text
    assert [form.get("action") for form in other.main.iter("form")] == ["/sign-out"]
    known = await stranger(lab).get(f"/join?invitation={token}")
    assert "has an account here" in known.text
    assert list(known.main.iter("form")) == []
    page = await (await lab.reader("stranger")).get(f"/join?invitation={token}")
    assert page.form().get("action") == "/join/accept"
