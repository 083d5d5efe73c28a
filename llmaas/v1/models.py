"""`GET /v1/models` and `GET /v1/models/{id}`: what this key may use."""

from __future__ import annotations

from typing import Any

import msgspec

from llmaas.domain.access import Caller, find_model
from llmaas.domain.catalogue import Entry
from llmaas.domain.models import Lifecycle, Phase
from llmaas.inference.service import CatalogueHolder
from llmaas.web.requests import Request
from llmaas.web.responses import JSON, respond

_json = msgspec.json.Encoder()


class ModelHandlers:
    def __init__(self, catalogue: CatalogueHolder) -> None:
        self._catalogue = catalogue

    async def list(self, request: Request, caller: Caller | None) -> None:
        assert caller is not None  # noqa: S101 - the route table asks for a key
        catalogue = self._catalogue.current
        seen = [model_object(e) for e in catalogue.listed() if caller.may_use(catalogue, e)]
        await respond(request, 200, [JSON], _json.encode({"object": "list", "data": seen}))

    async def get(self, request: Request, caller: Caller | None) -> None:
        assert caller is not None  # noqa: S101 - the route table asks for a key
        entry = find_model(self._catalogue.current, caller, request.path_rest)
        await respond(request, 200, [JSON], _json.encode(model_object(entry)))


def model_object(entry: Entry) -> dict[str, Any]:
    model = entry.model
    created_s = model.created_ms // 1000
    root = entry.targets[0].deployment.root if entry.targets else model.id
    permission = {
        "id": f"modelperm-{model.id}-{created_s}",
        "object": "model_permission",
        "created": created_s,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": model.id,
        "object": "model",
        "created": created_s,
        "owned_by": model.owned_by,
        "kind": str(model.kind),
        "root": root,
        "aliases": list(model.aliases),
        "parent": None,
        "max_model_len": model.max_model_len,
        "permission": [permission],
        **_end_of_life(model.lifecycle),
    }


def _end_of_life(lifecycle: Lifecycle) -> dict[str, str]:
    """What a developer has to know to move to another model in time; nothing while no end is announced."""
    told = {
        "phase": lifecycle.phase if lifecycle.phase == Phase.DEPRECATED else None,
        "deprecation_date": lifecycle.deprecated,
        "shutdown_date": lifecycle.retires,
    }
    if not any(told.values()):
        return {}
    return {name: value for name, value in {**told, "successor": lifecycle.successor}.items() if value is not None}
