"""A form as it came, and what is wrong with it: values to fill it in again, and one message for each field."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from litestar import Request
from litestar.datastructures import FormMultiDict
from markupsafe import Markup

from llmaas.admin_api.access import CSRF_FIELD
from llmaas.console.texts import Words
from llmaas.errors import Conflict, InvalidRequest, LlmaasError, NotAuthenticated, NotFound, Outdated, RateLimited

_MAX_CHARS = 20_000
_AS_IT_IS = Markup('<a href="{}" target="_blank" rel="noopener">{}</a>')
SECRETS = frozenset({"code", "current", "password", "secret"})
"""Fields that are never filled in for anybody."""
RESUMED = "resumed"
"""The field of a form that is sent for its user, who was signed out while filling it in."""
_EXPECTED = (InvalidRequest, NotAuthenticated, NotFound, Conflict, Outdated, RateLimited)


@dataclass(slots=True)
class Fields:
    """`faults`: by field; under "" what is wrong with all of it. Templates ask `fields.value(…)` and `fields.fault(…)`."""

    t: Words
    values: Mapping[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    anew: str = ""
    """The address of the form as it is made of what is stored now."""

    @property
    def good(self) -> bool:
        return not self.faults

    def value(self, name: str, otherwise: str = "") -> str:
        return self.values.get(name, otherwise)

    def listed(self, name: str) -> tuple[str, ...]:
        """All that were chosen of a field with many."""
        return self.lists.get(name, ())

    def fault(self, name: str = "") -> str:
        return self.faults.get(name, "")

    def need(self, *names: str) -> None:
        """Note each of these that is empty."""
        for name in names:
            if not self.value(name).strip():
                self.faults[name] = self.t("frame.required")

    @contextmanager
    def noting(self, *names: str, otherwise: str = "") -> Iterator[None]:
        """What a service refuses within is noted beside the field that it names if it is one of `names`, else at
        `otherwise`. What follows the refusal within the block does not run.
        """
        try:
            yield
        except Outdated:
            self.faults[""] = self.t("frame.outdated", link=_AS_IT_IS.format(self.anew, self.t("frame.as_it_is")))
        except _EXPECTED as error:
            param = getattr(error, "param", None) or ""
            # The API names what stands in tables of a body, such as `lifecycle.retires`; forms are flat.
            fields = (param, param.replace(".", "_"), param.rpartition(".")[2], param.partition(".")[0])
            self.faults[next((name for name in fields if name in names), otherwise)] = said_of(self.t, error)


def said_of(t: Words, error: LlmaasError) -> str:
    """What an error says to a reader, with how long to wait where that is known."""
    said = t.said(error.message)
    if not isinstance(error, RateLimited) or error.retry_after_s is None:
        return said
    return f"{said} {t.count('frame.try_again_in', max(1, math.ceil(error.retry_after_s)))}"


async def read_fields(request: Request[Any, Any, Any], t: Words) -> Fields:
    """Of a form that comes back to who signed in anew the handler hears that it is at fault, and shows it as it was."""
    form, lists = await request.form(), {}
    for name in form:
        lists[name] = tuple(value[:_MAX_CHARS] for value in form.getall(name) if isinstance(value, str))
    fields = Fields(t, {name: values[-1] for name, values in lists.items() if values}, lists=lists)
    fields.anew = quote(str(request.scope["path"]))
    if RESUMED in fields.values:
        fields.faults[""] = t("frame.resumed")
    return fields


def typed_in(form: FormMultiDict) -> list[tuple[str, str]]:
    """What a form holds but secrets and the form token."""
    return [
        (name, value)
        for name in form
        if name not in {*SECRETS, CSRF_FIELD, RESUMED}
        for value in form.getall(name)
        if isinstance(value, str)
    ]
