"""The words of the pages: the same in each language, none of them in a template, all of them there."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
import tomllib
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest

from llmaas.console.texts import DEFAULT_LANGUAGE, LANGUAGES, Texts, choose_language
from llmaas.domain.declarations import declare
from llmaas.domain.fleet import Fleet
from llmaas.domain.usage import BillingReason, UsageSource
from llmaas.engines.probe import ProbeReason
from llmaas.routing.policy import Reason
from llmaas.settings import Settings
from tests.cli.fleet_mistakes import MISTAKES

CONSOLE = Path(__file__).parents[2] / "llmaas" / "console"
TEMPLATES = sorted((CONSOLE / "templates").rglob("*.html"))
_PLACES = re.compile(r"\{\w+\}")
_REFUSALS = frozenset(
    {"BodyTooLarge", "Conflict", "InvalidRequest", "MethodNotAllowed", "NotAllowed", "NotAuthenticated", "NotFound"}
    | {"Outdated", "RateLimited", "UnknownPath"}
)
_OF_COMMANDS = frozenset({"backup.py", "corrections.py", "duties.py", "usage.py"})
"""Modules that only commands and programs call."""
_ONLY_PROGRAMS = frozenset(
    {
        "It was changed meanwhile. Read it again.",  # forms say it in words of their own, as of each that follows
        "The key was changed meanwhile. Read it again.",
        "The role was changed meanwhile. Read it again.",
        "The user was changed meanwhile. Read it again.",
        "That cannot be done by a personal access token; sign in to do it.",
        "The body declares another thing than the address names.",
        "The body is not valid JSON.",
        "This key may not do that: it lacks the permission `{}`.",
        "`idempotency_key` must be 1 to 200 visible ASCII characters.",
        "`overlap_s` must be between 0 and {}.",
        "`amount` {}.",  # forms read amounts themselves
        "`{}` {}.",
        "`{}`: {}.",
        "{}.",  # mistakes of a declaration, which name its keys
        "{}",
    }
)
_FAULTS = frozenset(
    {"is no network such as {a} or {b}", "is no URL such as {url}", "is longer than {count} characters"}
)
_FAULTS |= {"has bits beyond its prefix; write {network}", "`name` {fault}."}
_CODE = re.compile(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)
_CALL = re.compile(r"""\bt\(\s*"([\w.-]+)"\s*[,)]""")
_SPOKEN = re.compile(r"""\b(?:title|aria-label|placeholder|alt)="([^"]*)\"""")
_NAMES = re.compile(r"\bllmaas\w*|\b(?:kWh|true|false)\b|[\w-]+=\"[^\"]*\"")
"""What is the same in every language; and attributes that a macro writes."""


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_the_same_texts_with_the_same_places(language: str) -> None:
    first, other = Texts().words(DEFAULT_LANGUAGE).texts, Texts().words(language).texts
    assert set(first) ^ set(other) == set()
    for key, text in first.items():
        assert places(text) == places(other[key]), f"{language}: {key}"
        assert other[key].strip() == other[key], f"{language}: {key}"


def places(text: str) -> set[str | None]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(CONSOLE / "templates")))
def test_no_word_stands_in_a_template(path: Path) -> None:
    text = path.read_text()
    bare = _CODE.sub(" ", text)
    words = re.sub(r"<[^>]*>", " ", re.sub(r"<!doctype[^>]*>", "", bare))
    assert re.findall(r"[^\W\d_]{2,}", _NAMES.sub("", words)) == []
    assert [said for said in _SPOKEN.findall(bare) if re.search(r"[^\W\d_]{2,}", said)] == []


@pytest.mark.parametrize("path", [*TEMPLATES, *sorted((CONSOLE / "pages").glob("*.py"))], ids=lambda path: path.name)
def test_every_text_that_is_asked_for_is_there(path: Path) -> None:
    known = Texts().words(DEFAULT_LANGUAGE).texts
    assert [key for key in _CALL.findall(path.read_text()) if not key.endswith(".") and key not in known] == []


def test_what_services_say_is_translated_by_sentences_that_they_say() -> None:
    said = {language: Texts().words(language).messages for language in LANGUAGES}
    assert set(said["es"]) == set(said["fr"])
    assert set(said["en"]) <= set(said["es"])
    source = "".join(path.read_text() for path in CONSOLE.parent.rglob("*.py"))
    plain = source.replace("{MIN_PASSWORD_CHARS}", "12").replace("{_MAX_PASSWORD_CHARS}", "200")
    refused = {*_refusals(), *(one.metadata["help"] for one in dataclasses.fields(Settings))}
    assert [
        sentence
        for sentence in said["es"]
        if _PLACES.sub("{}", sentence) not in refused and sentence not in plain and sentence not in _FAULTS
    ] == []
    for language, messages in said.items():
        for sentence, text in messages.items():
            assert places(text) <= places(sentence), f"{language}: {sentence}"


def test_every_refusal_that_people_can_meet_is_translated() -> None:
    known = {_PLACES.sub("{}", sentence) for sentence in Texts().words("es").messages}
    assert [sentence for sentence in _refusals() if sentence not in known | _ONLY_PROGRAMS] == []


def test_what_varies_in_a_refusal_stays_and_its_fault_is_translated() -> None:
    t = Texts().words("es")
    assert t.said("There is no model `a{b}`.") == "No hay ningún modelo a{b}."
    assert t.said("The address is blank.") == "La dirección está en blanco."
    assert Texts().words("en").said("`amount` must not be zero.") == "Give an amount other than zero."
    assert t.said("Nobody says that.") == "Nobody says that."


_ENGLISH = re.compile(
    r"\b(?:must|lacks|unknown|did|mean|is|be|not|of|in|the|and|or|there|belongs|differs|leads|for|such|listed|before)\b"
)
_QUOTED = re.compile(r'"[^"]*"|`[^`]*`|\[\[\w+\]\]|\w+ of (?=\[\[)|\S*_\w+|https?://\S+|/\S+')


def _mistakes() -> list[str]:
    """All that fleet files with mistakes are told; what is no TOML is told by its reader."""
    told = set[str]()
    for text, _ in MISTAKES:
        with contextlib.suppress(tomllib.TOMLDecodeError):
            told |= {mistake.message for mistake in declare(tomllib.loads(text), Fleet())[1]}
    forbidden = ["leads to 169.254.169.254, which is denied; see upstream_allow"]
    forbidden += ["must write a numeric address in its usual form, such as 10.0.0.12"]
    told |= {f"backend `b`: base_url {fault}" for fault in forbidden}
    told |= {"tier `t` has projects on it: a, b", "model `m`: its successors lead back to it"}
    return sorted(told)


@pytest.mark.parametrize("language", ["es", "fr"])
def test_mistakes_of_declarations_are_told_in_the_language_of_the_reader(language: str) -> None:
    t, found = Texts().words(language), _mistakes()
    assert len(found) > 40
    for mistake in found:
        told = t.said(f"{mistake}.")
        assert told.endswith("."), mistake
        assert _ENGLISH.findall(_QUOTED.sub("", told)) == [], (mistake, told)
        assert Texts().words("en").said(f"{mistake}.") == f"{mistake}."
    together = t.said(f"{found[0]}; {found[1]}; and 3 more.")
    assert together.startswith(
        t.said(f"{found[0]}.").removesuffix(".") + "; " + t.said(f"{found[1]}.").removesuffix(".")
    )
    assert t.said(f"It is needed still: {found[-1]}.").endswith(t.said(found[-1]) + ".")


def test_a_mistake_keeps_what_was_typed() -> None:
    t = Texts().words("es")
    told = t.said('max_model_len in [[models]] must be a whole number, not "8k"; price of [[models]] lacks "input".')
    assert (
        told
        == 'max_model_len en [[models]] debe ser un número entero, no "8k"; a price of [[models]] le falta "input".'
    )
    assert t.said("Nobody says that; and 3 more.") == "Nobody says that; and 3 more."


def _refusals() -> list[str]:
    """What errors of the control plane say, with `{}` for what varies."""
    found: dict[str, None] = {}
    for folder in ("admin_api", "console", "control", "domain", "storage"):
        for path in sorted((CONSOLE.parent / folder).rglob("*.py")):
            if path.name in _OF_COMMANDS:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _REFUSALS:
                    found |= dict.fromkeys(_sentences(node.args[:1]))
    return list(found)


def _sentences(arguments: list[ast.expr]) -> list[str]:
    for argument in arguments:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            return [argument.value]
        if isinstance(argument, ast.JoinedStr):
            return ["".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in argument.values)]
    return []


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != DEFAULT_LANGUAGE])
def test_F17_every_setting_is_explained(language: str) -> None:
    said = Texts().words(language).said
    assert [
        one.name for one in dataclasses.fields(Settings) if said(one.metadata["help"]) == one.metadata["help"]
    ] == []


@pytest.mark.parametrize(
    ("chosen", "accepted", "expected"),
    [
        ("fr", "es", "fr"),
        (None, "es-MX,es;q=0.9,en;q=0.8", "es"),
        (None, "de, fr;q=0.5, es;q=0.7", "es"),
        (None, "de", "en"),
        (None, "", "en"),
        ("xx", ";;;q=,fr;q=abc", "en"),
        ("../en", "fr;q=0.1", "fr"),
    ],
)
def test_the_language_is_the_readers(chosen: str | None, accepted: str, expected: str) -> None:
    assert choose_language(chosen, accepted) == expected


def test_numbers_are_written_as_the_language_does() -> None:
    texts = Texts()
    assert [texts.words(language).number(12345.5, 1) for language in LANGUAGES] == [
        "12,345.5",
        "12.345,5",
        "12\u202f345,5",
    ]


def test_one_and_many() -> None:
    known = {key.rpartition(".")[0] for key in Texts().words("en").texts if key.endswith(".one")}
    for key in known:
        for language in LANGUAGES:
            words = Texts().words(language)
            assert f"{key}.other" in words.texts


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_words_for_every_reason(language: str) -> None:
    t = Texts().words(language)
    for reason in BillingReason:
        assert t(f"reason.{reason}")
    for source in UsageSource:
        assert t(f"reason.source_{source}")
    for routed in (*get_args(Reason), "failover"):
        assert t(f"reason.routing_{routed}")
    for why in (*get_args(ProbeReason), "no_credential"):
        text = t(f"probe.{why}")
        assert len(re.findall(r"[.?](?= |$)", text.replace(" ?", "?"))) >= 2, f"what is wrong, then what to do: {why}"
