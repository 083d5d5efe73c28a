"""The words of the OpenAPI document fit its types: every field of a request is explained."""

from __future__ import annotations

import pytest

from llmaas.v1 import openapi


@pytest.mark.parametrize("kind", ["ChatRequest", "CompletionRequest", "EmbeddingRequest"])
def test_every_field_of_a_request_is_explained(kind: str) -> None:
    properties = openapi.build([])["components"]["schemas"][kind]["properties"]
    assert [name for name, schema in properties.items() if not schema.get("description")] == []
