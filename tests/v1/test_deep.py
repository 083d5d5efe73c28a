"""A caller's JSON that is nested up to where Python gives it up, and beyond, is 400 and never 500."""

from __future__ import annotations

import pytest

from llmaas.domain.models import ProviderKind
from tests.service import CHAT, Service, model_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIELDS = {
    "tools": '"tools":[{"type":"function","function":{"name":"f","parameters":%s}}]',
    "demanded": '"tools":[{"type":"function","function":{"name":"f","parameters":%s}}],"tool_choice":"required"',
    "schema": '"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":%s}}',
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("kind", [ProviderKind.OPENAI, ProviderKind.LLAMA_CPP, ProviderKind.OLLAMA])
async def test_A17_a_request_is_taken_or_refused_at_any_depth(service: Service, kind: ProviderKind, name: str) -> None:
    """The depth at which it can be read but not be written any more is some five levels wide."""
    for levels in (100, *range(930, 990), 3000):
        said = f'{{"model":"{model_of(kind, "plain")}","messages":[{{"role":"user","content":"a"}}],'
        body = said + FIELDS[name] % ('{"a":' * levels + '{"$ref":"#"}' + "}" * levels) + "}"
        answer = await service.post(CHAT, body.encode())
        # 502: the fake engine makes no call by a schema, and reads no more levels than Python does.
        assert answer.status in {200, 400, 502}, levels
    assert answer.status == 400
