"""Reading one table of plain values: each is checked by what it must be, and every mistake is kept with its path.

A wrong value is replaced by something harmless of the right type, so that reading can go on to the next mistake.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import urlsplit

from llmaas.domain.credentials import PROVIDER_VARIABLES, CredentialVariables, is_own, quoted
from llmaas.domain.prices import parse_amount

Path = tuple[str | int, ...]
MAX_NAME_CHARS = 200
_MAX_URL_CHARS = 2_000
_SHOWN_CHARS = 60
_ENDPOINT = re.compile(
    r"(?<=[^/])(/chat/completions|/completions|/embeddings|/models|/rerank|/responses|/messages"
    r"|/api/(?:chat|generate|embed|embeddings|tags|show|version))/*$",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_Choice = TypeVar("_Choice", bound=StrEnum)
_Default = TypeVar("_Default", bound=bool | None)
_Instead = TypeVar("_Instead")


@dataclass(frozen=True, slots=True)
class Mistake:
    """`path` leads to the value that is wrong, or to what lacks it: ("models", 0, "price", "input")."""

    path: Path
    message: str


class Table:
    """Hands out the values of a table and remembers which keys were asked for."""

    def __init__(self, heading: str, path: Path, values: Mapping[str, object], mistakes: list[Mistake]) -> None:
        self._heading = heading
        self._path = path
        self._values = values
        self._mistakes = mistakes
        self._asked: set[str] = set()

    def refuse(self, key: str, message: str) -> None:
        self._mistakes.append(Mistake((*self._path, key), message))

    def refuse_unknown(self) -> None:
        for key in self._values:
            if key not in self._asked:
                self.refuse(key, f'unknown key "{printable(key)}" in {self._heading}{closest(key, self._asked)}')

    def name(self, key: str, *, default: str | None = None) -> str:
        """A line of text. Without a default it has to be there."""
        value = self._take(key)
        if value is None:
            if default is None:
                self.refuse(key, f'{self._heading} lacks "{key}"')
            return default or ""
        if not isinstance(value, str):
            return self._wrong(key, "must be a string", value, default or "")
        if fault := name_fault(value):
            self._wrong(key, fault, value, None)
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """A list of names, each once, in any case."""
        value = self._take(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            return self._wrong(key, "must be a list of strings", value, ())
        names: dict[str, str] = {}
        for index, item in enumerate(value):
            if not isinstance(item, str):
                self._wrong(key, "must be a list of strings", item, None, index=index)
            elif fault := name_fault(item) or ("is listed twice" if item.casefold() in names else None):
                self._wrong(key, fault, item, None, index=index)
            else:
                names[item.casefold()] = item
        return tuple(names.values())

    def choice(self, key: str, choices: type[_Choice], default: _Choice | None) -> _Choice:
        value = self._take(key)
        known = [str(choice) for choice in choices]
        if value is None and default is None:
            self.refuse(key, f'{self._heading} lacks "{key}": one of {", ".join(known)}')
        elif value is not None:
            if isinstance(value, str) and value in known:
                return choices(value)
            suggestion = closest(value, known) if isinstance(value, str) else ""
            self._wrong(key, f"must be one of {', '.join(known)}", value, None, suggestion=suggestion)
        return default or next(iter(choices))

    def flag(self, key: str, *, default: _Default) -> bool | _Default:
        value = self._take(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        return self._wrong(key, "must be true or false", value, default)

    def count(self, key: str, *, at_most: int) -> int | None:
        """A whole number from 1."""
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            return self._wrong(key, "must be a whole number", value, None)
        if not 1 <= value <= at_most:
            return self._wrong(key, f"must be between 1 and {at_most}", value, None)
        return value

    def amount(self, key: str) -> int | None:
        """Money as nano-units."""
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | str):
            return self._wrong(key, 'must be a decimal in quotes such as "1.80", so that it stays exact', value, None)
        try:
            return parse_amount(str(value))
        except ValueError as error:
            return self._wrong(key, str(error), value, None)

    def url(self, key: str) -> str:
        """The base address of an HTTP service, without a slash at its end; empty when it is not given."""
        value = self._take(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            return self._wrong(key, "must be a string", value, "")
        if fault := url_fault(value):
            return self._wrong(key, fault, value if "@" not in value else None, "")
        if fault := endpoint_fault(value):
            return self._wrong(key, fault, value, "")
        return value.rstrip("/")

    def variable(self, key: str) -> str | None:
        """The name of an environment variable."""
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
            # What stands here by mistake is often the credential itself, so it is not shown.
            return self._wrong(
                key, f"must be the name of an environment variable such as {PROVIDER_VARIABLES}LAB_KEY", None, None
            )
        if is_own(value):
            return self._wrong(key, f"{CredentialVariables().fault(value)}{quoted(value)}", None, None)
        return value

    def day(self, key: str) -> str | None:
        value = self._take(key)
        if value is None:
            return None
        text = value.isoformat() if isinstance(value, date) and not isinstance(value, datetime) else value
        try:
            if isinstance(text, str) and len(text) == 10:
                return date.fromisoformat(text).isoformat()
        except ValueError:
            pass
        return self._wrong(key, "must be a day such as 2026-01-31", value, None)

    def table(self, key: str) -> Table | None:
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            return self._wrong(key, "must be a table", value, None)
        heading = f"{key} of {self._heading}"
        return Table(heading, (*self._path, key), value, self._mistakes)

    def tables(self, key: str) -> list[tuple[str, Table]]:
        """A table of tables, each with the name that it stands under."""
        whole = self.table(key)
        return [] if whole is None else whole.entries()

    def entries(self) -> list[tuple[str, Table]]:
        """Every value as a table, with its name."""
        found = []
        for name in self._values:
            if fault := name_fault(name):
                self._asked.add(name)
                self.refuse(name, f'the name "{printable(name)}" in {self._heading} {fault}')
            elif (table := self.table(name)) is not None:
                found.append((name, table))
        return found

    def free_table(self, key: str) -> dict[str, Any]:
        """A table that may hold anything that JSON can say; days and times become text."""
        value = self._take(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            return self._wrong(key, "must be a table", value, {})
        return {name: self._free((key, name), item) for name, item in value.items()}

    def _free(self, path: Path, value: object) -> Any:
        if isinstance(value, dict):
            return {name: self._free((*path, name), item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._free((*path, index), item) for index, item in enumerate(value)]
        if isinstance(value, date | datetime | time):
            return value.isoformat()
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse_free(path, "must be a finite number")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            self._refuse_free(path, "must fit in 64 bits")
        return value

    def _refuse_free(self, path: Path, fault: str) -> None:
        dotted = ".".join(printable(str(part)) for part in path)
        self._mistakes.append(Mistake((*self._path, *path), f"{dotted} in {self._heading} {fault}"))

    def _take(self, key: str) -> object:
        self._asked.add(key)
        return self._values.get(key)

    def _wrong(
        self,
        key: str,
        fault: str,
        value: object,
        instead: _Instead,
        *,
        index: int | None = None,
        suggestion: str = "",
    ) -> _Instead:
        shown = "" if value is None else f", not {_shown(value)}"
        if isinstance(value, str) and not fault.startswith("must"):
            shown = f": {_shown(value)}"
        path = (*self._path, key) if index is None else (*self._path, key, index)
        self._mistakes.append(Mistake(path, f"{key} in {self._heading} {fault}{shown}{suggestion}"))
        return instead


def name_fault(text: str) -> str | None:
    """Why a text cannot be an id or a name, or None."""
    if not text.strip():
        return "is blank"
    if text != text.strip():
        return "begins or ends with a space"
    if len(text) > MAX_NAME_CHARS:
        return f"is longer than {MAX_NAME_CHARS} characters"
    if not text.isprintable():
        return "holds characters that cannot be printed"
    return None


def url_fault(text: str) -> str | None:
    """Why a text cannot be the base address of a service, or None."""
    if not text or not text.isascii() or not text.isprintable() or any(c in text for c in ' \\"<>^`{|}'):
        return "must be an http or https address without spaces and special characters"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return "must be an http or https address"
    if parts.scheme not in {"http", "https"} or not parts.hostname or len(text) > _MAX_URL_CHARS:
        return "must be an http or https address such as http://10.0.0.12:8000/v1"
    if "@" in parts.netloc:
        return "must not hold a credential; use api_key_env or `llmaas providers set-secret`"
    if "?" in text or "#" in text:
        return "must not have a query or a fragment"
    if port == 0 or parts.netloc.endswith(":"):
        return "must have a port between 1 and 65535, or none"
    return None


def endpoint_fault(url: str) -> str | None:
    """Why an address is that of one endpoint and not of the service, whose endpoints' paths we add; or None."""
    if "//" in urlsplit(url).path:
        return "must not have two slashes in its path"
    endpoint = _ENDPOINT.search(url)
    if endpoint is None:
        return None
    base = url[: endpoint.start()]
    hint = f", {base}" if url_fault(base) is None else ""
    return f"must be the address before {endpoint[1]}{hint}"


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean "…"?` when one of the known names is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def printable(text: str) -> str:
    """The text with everything escaped that would do something to a terminal or a log."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    text = f'"{printable(value)}"' if isinstance(value, str) else printable(str(value))
    if isinstance(value, bool):
        text = text.lower()
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
