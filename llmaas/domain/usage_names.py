"""Names in a filter of usage that nothing here has or ever had, so that a slip of the pen is told from no usage."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from llmaas.domain.fleet import Fleet
from llmaas.domain.keys import Key
from llmaas.domain.usage import UsageFilter, UsageReader
from llmaas.domain.values import closest


class KeyFinder(Protocol):
    async def get(self, kid: str) -> Key | None: ...


@dataclass(frozen=True, slots=True)
class UnknownName:
    """`noun`: the filter that it stands in. `hint`: what may be meant; "" when nothing is like it."""

    noun: str
    name: str
    hint: str


async def unknown_name(
    where: UsageFilter, *, fleet: Fleet, keys: KeyFinder, usage: UsageReader, members: Collection[str] = ()
) -> UnknownName | None:
    """The first name that is not there now and has no usage; of what is removed the usage stays. Within a project the keys and the
    usage of others are as if they were not.
    """
    models, backends = [one.id for one in fleet.models], [one.id for one in fleet.backends]
    key = await keys.get(where.key_id) if where.key_id is not None else None
    own = key is not None and where.project_id in {None, key.project_id}
    for noun, name, present, alone in (
        ("model", where.model_id, models, UsageFilter(where.project_id, model_id=where.model_id)),
        ("backend", where.backend_id, backends, UsageFilter(where.project_id, backend_id=where.backend_id)),
        (
            "key",
            where.key_id,
            [key.id] if key is not None and own else [],
            UsageFilter(where.project_id, key_id=where.key_id),
        ),
        ("member", where.member_id, members, UsageFilter(where.project_id, member_id=where.member_id)),
    ):
        if name is not None and name not in present and not await usage.sums(alone, []):
            aliased = next((one.id for one in fleet.models if noun == "model" and name in one.aliases), None)
            hint = f"it is an alias of `{aliased}`" if aliased else closest(name, present).removeprefix("; ")
            return UnknownName(noun, name, hint)
    return None
