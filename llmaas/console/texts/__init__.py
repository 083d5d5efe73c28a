"""The words of the pages in three languages: `texts/<language>/<section>.toml`, asked for as `section.name`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from markupsafe import Markup, escape

LANGUAGES = {"en": "English", "es": "Español", "fr": "Français"}
DEFAULT_LANGUAGE = "en"
_MESSAGES = "messages"
"""The section whose keys are what services say, in their own English words, with `{placeholders}` for what varies."""
_OPERATIONS = "operations"
"""The section whose keys are what the OpenAPI documents say, likewise."""
_DECLARATIONS = "declarations"
"""That of mistakes in a declaration of the fleet, without the full stop."""
_PLACE = re.compile(r"\\\{(\w+)\\\}")
_SEPARATORS = {"en": ",", "es": ".", "fr": "\u202f"}
_POINTS = {"en": ".", "es": ",", "fr": ","}


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of one language."""

    language: str
    texts: Mapping[str, str]
    messages: Mapping[str, str]
    operations: Mapping[str, str]
    patterns: Sequence[tuple[re.Pattern[str], str]] = ()
    """Messages with placeholders."""
    operation_patterns: Sequence[tuple[re.Pattern[str], str]] = ()
    mistake_patterns: Sequence[tuple[re.Pattern[str], str]] = ()

    def __call__(self, key: str, **values: object) -> str:
        """The text with its `{placeholders}` filled. Raises KeyError for a key that is not there."""
        text = self.texts[key]
        if any(isinstance(value, Markup) for value in values.values()):  # such as a time in the reader's zone
            return Markup(escape(text)).format_map({name: self._shown(value) for name, value in values.items()})  # noqa: S704
        return text.format_map({name: self._shown(value) for name, value in values.items()}) if values else text

    def count(self, key: str, number: int, **values: object) -> str:
        """One of the texts `key.one` and `key.other`, with `{n}`."""
        return self(self.form(key, number), n=number, **values)

    def form(self, key: str, number: int) -> str:
        """The key of the text that goes with that number."""
        is_one = number in {0, 1} if self.language == "fr" else number == 1
        return f"{key}.{'one' if is_one else 'other'}"

    def said(self, message: str) -> str:
        """What a service says, in words for people of this language when it is one of the sentences that have such."""
        known = self.messages.get(message)
        if known is not None:
            return known
        for pattern, text in self.patterns:
            if (found := pattern.fullmatch(message)) is not None:
                # What varies may be such a sentence, as the fault is that "The address {fault}." ends with.
                return text.format_map({name: self.said(value).strip("`") for name, value in found.groupdict().items()})
        return self._mistakes(message) or message

    def _mistakes(self, message: str) -> str | None:
        """Mistakes of a declaration one after the other; None when it is something else that is said."""
        told = [self._mistake(part) for part in message.removesuffix(".").split("; ")]
        if not self.mistake_patterns or None in told:
            return None
        return "; ".join(map(str, told)) + ("." if message.endswith(".") else "")

    def _mistake(self, text: str) -> str | None:
        if text in self.messages:
            return self.messages[text]
        for pattern, told in (*self.mistake_patterns, *self.patterns):
            values = found.groupdict() if (found := pattern.fullmatch(text)) is not None else None
            if values is not None and "value" in values:
                values["value"] = self._mistake(values["value"]) or values["value"]
            if values is not None and "fault" in values:
                values["fault"] = self._mistake(values["fault"])
            if values is not None and None not in values.values():
                return told.format_map(values)
        return None

    def described(self, text: str) -> str:
        """What the OpenAPI documents say of an operation or a field, in this language."""
        known = self.operations.get(text)
        if known is not None:
            return known
        matches = ((pattern.fullmatch(text), told) for pattern, told in self.operation_patterns)
        return next((told.format_map(found.groupdict()) for found, told in matches if found is not None), text)

    def number(self, value: float, places: int = 0) -> str:
        text = f"{value:,.{places}f}"
        return text.translate({ord(","): _SEPARATORS[self.language], ord("."): _POINTS[self.language]})

    @property
    def point(self) -> str:
        """Before the places of a number."""
        return _POINTS[self.language]

    @property
    def group(self) -> str:
        """Between the thousands of a number."""
        return _SEPARATORS[self.language]

    def _shown(self, value: object) -> str:
        if isinstance(value, Markup):
            return value
        return self.number(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


class Texts:
    """All languages, read once."""

    def __init__(self) -> None:
        folder = resources.files(__name__)
        self._words = {language: _read(folder, language) for language in LANGUAGES}

    def words(self, language: str) -> Words:
        return self._words[language]


def choose_language(chosen: str | None, accepted: str) -> str:
    """`chosen`: by the reader; else the best of an `accept-language` header that we have."""
    if chosen in LANGUAGES:
        return chosen
    wishes: list[tuple[float, str]] = []
    for part in accepted[:200].split(","):
        tag, _, weight = part.partition(";q=")
        try:
            wishes.append((-float(weight or 1), tag.strip().lower().partition("-")[0]))
        except ValueError:
            continue
    known = [tag for _, tag in sorted(wishes, key=lambda wish: wish[0]) if tag in LANGUAGES]
    return known[0] if known else DEFAULT_LANGUAGE


def _read(folder: Traversable, language: str) -> Words:
    texts: dict[str, str] = {}
    known: dict[str, dict[str, str]] = {_MESSAGES: {}, _OPERATIONS: {}, _DECLARATIONS: {}}
    for file in folder.joinpath(language).iterdir():
        section, _, ending = file.name.rpartition(".")
        if ending != "toml":
            continue
        table = tomllib.loads(file.read_text("utf-8"))
        if section in known:
            known[section] = dict(_flat("", table))
        else:
            texts.update(_flat(f"{section}.", table))
    messages, operations = known[_MESSAGES], known[_OPERATIONS]
    mistakes = [(_pattern(said), text) for said, text in known[_DECLARATIONS].items()]
    return Words(language, texts, messages, operations, _patterns(messages), _patterns(operations), mistakes)


def _patterns(sentences: Mapping[str, str]) -> list[tuple[re.Pattern[str], str]]:
    return [(_pattern(said), text) for said, text in sentences.items() if _PLACE.search(re.escape(said))]


def _pattern(said: str) -> re.Pattern[str]:
    return re.compile(_PLACE.sub(r"(?P<\1>.*)", re.escape(said)), re.DOTALL)


def _flat(prefix: str, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", str(value)
