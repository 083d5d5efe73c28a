"""Who may use what: the caller of a request and which models it may see."""

from __future__ import annotations

from dataclasses import dataclass

from llmaas.domain.catalogue import Catalogue, Entry
from llmaas.domain.keys import Key, Permission
from llmaas.domain.projects import Project
from llmaas.errors import NotAllowed, UnknownModel


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated key and its project."""

    key: Key
    project: Project

    def require(self, permission: Permission) -> None:
        """Raises NotAllowed."""
        if permission not in self.key.permissions:
            raise NotAllowed(f"This key may not do that: it lacks the permission `{permission}`.")

    def may_use(self, model_id: str) -> bool:
        allowed = self.key.allowed_models
        return not allowed or model_id in allowed


def find_model(catalogue: Catalogue, caller: Caller, name: str) -> Entry:
    """Raises UnknownModel, with one text, for a model that is not there and for one that the key may not use."""
    entry = catalogue.resolve(name)
    if entry is None or not caller.may_use(entry.model.id):
        raise UnknownModel(name)
    return entry
