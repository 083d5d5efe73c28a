"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import pytest

from tests.service import CHAT, WINDOW, Service, error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

ENTRY: dict[str, Any] = {
    "id": "granite3.3:8b",
    "object": "model",
    "owned_by": "CloudTemple",
    "kind": "chat",
    "root": "ibm-granite/granite-3.3-8b-instruct",
    "aliases": ["granite", "Granite-Latest"],
    "parent": None,
    "max_model_len": WINDOW,
    "permission": [
        {
            "object": "model_permission",
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
    ],
}


def dated(entry: dict[str, Any]) -> dict[str, Any]:
    """What stands in the document, for a model that was published just now."""
    created = entry["created"]
    assert abs(time.time() - created) < 86_400
    permission = {"id": f"modelperm-granite3.3:8b-{created}", "created": created, **ENTRY["permission"][0]}
    return {**ENTRY, "created": created, "permission": [permission]}


async def test_the_list(service: Service) -> None:
    answer = await service.gateway.get("/v1/models")
    body = answer.json()
    assert (answer.status, set(body), body["object"]) == (200, {"object", "data"}, "list")
    granite = next(entry for entry in body["data"] if entry["id"] == "granite3.3:8b")
    assert granite == dated(granite)
    assert all(set(entry) == set(granite) for entry in body["data"])
    assert len({entry["id"] for entry in body["data"]}) == len(body["data"]) > 100


async def test_a_model_says_its_kind(service: Service) -> None:
    kinds = {entry["id"]: entry["kind"] for entry in (await service.gateway.get("/v1/models")).json()["data"]}
    assert (kinds["plain"], kinds["embed"]) == ("chat", "embedding")


@pytest.mark.parametrize("path", ["granite3.3:8b", "granite3.3%3A8b", "granite", "GRANITE-latest"])
async def test_one(service: Service, path: str) -> None:
    answer = await service.gateway.get(f"/v1/models/{path}")
    assert (answer.status, answer.json()) == (200, dated(answer.json()))


@pytest.mark.parametrize("path", ["vllm/fake-tools", "vllm%2Ffake-tools", "vllm%2ffake-tools"])
async def test_ids_with_a_slash_raw_and_encoded(service: Service, path: str) -> None:
    answer = await service.gateway.get(f"/v1/models/{path}")
    assert (answer.status, answer.json()["id"]) == (200, "vllm/fake-tools")


@pytest.mark.parametrize("name", ["nope", "vllm/nope", "a b", "ñ", "x" * 600, "..", "a%b", "granite3.3:8b/"])
async def test_unknown_ones_look_alike_everywhere(service: Service, name: str) -> None:
    answer = await service.gateway.get(f"/v1/models/{quote(name)}")
    assert answer.status == 404
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("invalid_request_error", "model_not_found")
    if len(name) <= 200:
        assert error["message"] == f"The model `{name}` does not exist or you do not have access to it."
    if len(name) <= 512:
        chat = await service.post(CHAT, {"model": name, "messages": [{"role": "user", "content": "hi"}]})
        assert (chat.status, chat.json()) == (404, answer.json())


async def test_a_key_sees_only_its_models(service: Service) -> None:
    key = await service.gateway.create_key(allowed_models=["granite3.3:8b"])
    listed = (await service.gateway.get("/v1/models", key=key)).json()["data"]
    assert [entry["id"] for entry in listed] == ["granite3.3:8b"]
    assert (await service.gateway.get("/v1/models/granite", key=key)).status == 200
    hidden, unknown = (
        await service.gateway.get("/v1/models/plain", key=key),
        await service.gateway.get("/v1/models/nope", key=key),
    )
    assert (hidden.status, unknown.status) == (404, 404)
    assert hidden.body.replace(b"plain", b"nope") == unknown.body
    body = {"model": "plain", "messages": [{"role": "user", "content": "hi"}]}
    assert (await service.post(CHAT, body, key=key)).json() == hidden.json()


async def test_head_is_get_without_a_body(service: Service) -> None:
    get = await service.request("GET", "/v1/models/granite")
    head = await service.request("HEAD", "/v1/models/granite")
    assert (head.status, head.body) == (200, b"")
    assert head.header("content-length") == get.header("content-length")
