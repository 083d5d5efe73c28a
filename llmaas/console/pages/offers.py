"""What a machine serves, as a form that publishes it: each of its names may become a model of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmaas.admin_api.machines import ServedModel
from llmaas.console.pages.fields import Fields
from llmaas.domain.fleet import Fleet
from llmaas.domain.models import ModelKind

_MOST = 500
_MOST_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Offer:
    """`root`: the engine's own name; `name`: the model to publish it as. `is_known`: that model is in the catalogue already.

    `window`, `owner`: what the server says of it, None and "" when it says nothing.
    """

    number: int
    root: str
    name: str
    kind: str
    is_chosen: bool
    is_known: bool
    window: int | None = None
    owner: str = ""


def offers_of(served: Sequence[ServedModel], fleet: Fleet) -> list[Offer]:
    """As they are first shown. What is served elsewhere already keeps the name that callers know."""
    names = _names(fleet)
    shown = []
    for number, one in enumerate(served[:_MOST]):
        root = one.name
        known = names.get(root.casefold()) or names.get(root.rpartition("/")[2].casefold())
        shown.append(
            Offer(
                number,
                root,
                known or root,
                _kind_of(root),
                is_chosen=len(served) == 1,
                is_known=bool(known),
                window=one.max_model_len,
                owner=one.owned_by or "",
            )
        )
    return shown


def read_offers(fields: Fields, fleet: Fleet) -> list[Offer]:
    """As they came back."""
    names = _names(fleet)
    found = []
    for number in range(_MOST):
        root = fields.value(f"root_{number}")
        if not root:
            break
        name = fields.value(f"name_{number}").strip()
        known = names.get(name.casefold())
        kind = fields.value(f"kind_{number}")
        chosen = fields.value(f"take_{number}") == "on"
        if chosen and not name:
            fields.faults[f"name_{number}"] = fields.t("frame.required")
        window = fields.value(f"window_{number}")
        found.append(
            Offer(
                number,
                root,
                known or name,
                kind,
                is_chosen=chosen,
                is_known=bool(known),
                window=int(window) if window.isascii() and window.isdigit() and len(window) <= _MOST_DIGITS else None,
                owner=fields.value(f"owner_{number}"),
            )
        )
    return found


def declared_by(offers: Sequence[Offer], backend_id: str, provider_id: str) -> dict[str, list[dict[str, Any]]]:
    """The models that are new, and a deployment for each that was chosen. What the server names no owner of is the provider's."""
    chosen = [offer for offer in offers if offer.is_chosen]
    new = {
        offer.name: {
            "id": offer.name,
            "kind": offer.kind,
            "owned_by": offer.owner or provider_id,
            **({} if offer.window is None else {"max_model_len": offer.window}),
        }
        for offer in chosen
        if not offer.is_known
    }
    deployments = [{"model": offer.name, "backend": backend_id, "root": offer.root} for offer in chosen]
    return {"models": list(new.values()), "deployments": deployments}


def _names(fleet: Fleet) -> dict[str, str]:
    names = {alias.casefold(): model.id for model in fleet.models for alias in model.aliases}
    return {**names, **{model.id.casefold(): model.id for model in fleet.models}}


def _kind_of(root: str) -> str:
    """A guess by the name, to be put right in the form."""
    lower = root.lower()
    if "rerank" in lower:
        return ModelKind.RERANK
    return ModelKind.EMBEDDING if "embed" in lower or "bge-" in lower else ModelKind.CHAT
