"""What answers and requests of several controllers have in common: pages of lists, versions of things, forms of values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Annotated, Generic, TypeVar

import msgspec
from litestar import Response
from litestar.params import HeaderParameter, PathParameter, QueryParameter

from llmaas.clock import iso
from llmaas.domain.values import name_fault
from llmaas.errors import InvalidRequest, Outdated

MAX_PAGE = 200
Item = TypeVar("Item")
View = TypeVar("View", bound=msgspec.Struct)

PathId = Annotated[str, PathParameter(max_length=200)]
After = Annotated[str | None, QueryParameter(max_length=200, description="`next` of the page before.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE, description="The most things on a page.")]
IfMatch = Annotated[
    str | None, HeaderParameter(name="if-match", max_length=200, description="The `etag` of what was read.")
]


class Form(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A request's body: what it does not declare is refused."""


class Page(msgspec.Struct, Generic[View], frozen=True):
    """`next`: what to send as `after` for the page that follows; null on the last one."""

    data: list[View]
    next: str | None = None


def page_of(
    rows: Sequence[Item], limit: int, view: Callable[[Item], View], cursor: Callable[[Item], str]
) -> Page[View]:
    """`rows`: one more than `limit` when there are more."""
    shown = rows[:limit]
    return Page([view(row) for row in shown], cursor(shown[-1]) if len(rows) > limit else None)


def etag(view: msgspec.Struct) -> str:
    return f'"{blake2b(msgspec.json.encode(view), digest_size=12).hexdigest()}"'


def tagged(view: View, status: int = 200) -> Response[View]:
    """An answer that tells the version of what it shows."""
    return Response(view, status_code=status, headers={"etag": etag(view)})


def check_match(if_match: str | None, present: msgspec.Struct) -> None:
    """Raises Outdated when the caller read another version than the present one."""
    if if_match is not None and etag(present) not in if_match and if_match.strip() != "*":
        raise Outdated("It was changed meanwhile. Read it again.")


def moment(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)


def checked_name(text: str, field: str = "name") -> str:
    """Raises InvalidRequest for what cannot be shown on one line."""
    if fault := name_fault(text):
        raise InvalidRequest(f"`{field}` {fault}.", param=field)
    return text
