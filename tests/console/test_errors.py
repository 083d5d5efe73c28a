"""The admin API renders the whole tree of errors, as `/v1` does."""

from __future__ import annotations

import msgspec
import pytest

from llmaas import errors
from llmaas.errors import LlmaasError
from llmaas.v1 import errors as v1
from llmaas.web.errors import TABLE, render
from tests.v1.test_errors import example, tree

_ONLY_INFERENCE = frozenset(
    {
        errors.ContextTooLong,
        errors.EngineTimeout,
        errors.EngineRefused,
        errors.EngineBusy,
        errors.ClientGone,
        errors.ConfigurationError,
    }
)


@pytest.mark.parametrize("kind", list(tree(LlmaasError)), ids=lambda kind: kind.__name__)
def test_every_error_has_a_rendering(kind: type[LlmaasError]) -> None:
    status, headers, body = render(example(kind))
    error = msgspec.to_builtins(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "operator" not in str(error)
    assert (headers.get("www-authenticate") == "Bearer") == (status == 401)
    assert ("allow" in headers) == (status == 405)
    if status in {429, 503}:
        assert ("retry-after" in headers) != ("x-should-retry" in headers)
    if kind not in _ONLY_INFERENCE:
        assert status == v1.TABLE[kind][0]


def test_the_table_says_what_the_one_of_v1_says() -> None:
    differing = {kind.__name__ for kind, row in TABLE.items() if v1.TABLE[kind] != row}
    assert differing == {"NotAuthenticated"}  # it is no API key that is asked for
