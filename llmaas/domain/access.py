"""Who may use what: the caller of a request and which models it may see."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from llmaas.domain.catalogue import Catalogue, Entry
from llmaas.domain.keys import Key, Permission
from llmaas.domain.projects import Project
from llmaas.errors import InvalidRequest, NotAllowed, UnknownModel

_MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated key and its project."""

    key: Key
    project: Project

    def require(self, permission: Permission) -> None:
        """Raises NotAllowed."""
        if permission not in self.key.permissions:
            raise NotAllowed(f"This key may not do that: it lacks the permission `{permission}`.")

    def may_use(self, catalogue: Catalogue, entry: Entry) -> bool:
        return may_use(self.key.allowed_models, catalogue, entry)


def may_use(allowed: Collection[str], catalogue: Catalogue, entry: Entry) -> bool:
    """Whether a key that is allowed these model ids may use a model; none: every model. Where a model is retired, the right to
    it goes over to its successor, or the key could use nothing from that day on.
    """
    if not allowed or entry.model.id in allowed:
        return True
    return any(catalogue.resolve(name) is entry for name in allowed)


def find_model(catalogue: Catalogue, caller: Caller, name: str) -> Entry:
    """Raises UnknownModel, with one text, for a model that is not there and for one that the key may not use."""
    entry = catalogue.resolve(name)
    if entry is None:
        raise UnknownModel(name)
    allowed = caller.key.allowed_models
    if allowed and not may_use(allowed, catalogue, entry):  # a request's key mostly names no models
        raise UnknownModel(name)
    return entry


def model_ids(catalogue: Catalogue, names: Iterable[str], kept: Collection[str] = ()) -> frozenset[str]:
    """The ids of models that names, aliases and retired ids mean, for the models of a key; an id of `kept`, which the key has
    already, stays as it is. Raises InvalidRequest.
    """
    found = {name: name if name in kept else _id_of(catalogue, name) for name in names}
    unknown = [name for name, model_id in found.items() if model_id is None]
    if unknown:
        known = ", ".join(entry.model.id for entry in catalogue.listed()[:_MOST_SHOWN]) or "none yet"
        text = ", ".join(f"`{name[:200]}`" for name in unknown[:_MOST_SHOWN])
        raise InvalidRequest(f"There is no model {text}. Known models: {known}.", param="models")
    return frozenset(model_id for model_id in found.values() if model_id is not None)


def _id_of(catalogue: Catalogue, name: str) -> str | None:
    entry = catalogue.resolve(name)
    return None if entry is None else entry.model.id
