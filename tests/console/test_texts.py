"""The words of the pages: the same in each language, none of them in a template, all of them there."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest

from llmaas.console.texts import DEFAULT_LANGUAGE, LANGUAGES, Texts, choose_language
from llmaas.domain.usage import BillingReason, UsageSource
from llmaas.routing.policy import Reason
from llmaas.settings import Settings
from llmaas.upstreams.probe import ProbeReason

CONSOLE = Path(__file__).parents[2] / "llmaas" / "console"
TEMPLATES = sorted((CONSOLE / "templates").rglob("*.html"))
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
    said = {language: Texts().words(language).messages for language in LANGUAGES if language != DEFAULT_LANGUAGE}
    sentences = [set(messages) for messages in said.values()]
    assert sentences[0] == sentences[1]
    source = "".join(path.read_text() for path in CONSOLE.parent.rglob("*.py"))
    plain = source.replace("{MIN_PASSWORD_CHARS}", "12").replace("{_MAX_PASSWORD_CHARS}", "200")
    assert [sentence for sentence in sentences[0] if sentence not in plain] == []


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
