"""The renderer of errors covers the whole tree, always in one envelope."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from llmaas import errors
from llmaas.errors import LlmaasError
from llmaas.v1.errors import TABLE, render, render_event

STATUSES = {400, 401, 403, 404, 405, 409, 412, 413, 415, 429, 499, 500, 502, 503, 504}
TYPES = {"invalid_request_error", "permission_error", "rate_limit_error", "insufficient_quota", "server_error"}


def tree(root: type[LlmaasError]) -> Iterator[type[LlmaasError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def example(kind: type[LlmaasError]) -> LlmaasError:
    if kind is errors.UnknownModel:
        return errors.UnknownModel("m")
    if kind is errors.MethodNotAllowed:
        return errors.MethodNotAllowed("no", ["GET", "HEAD"])
    if kind is errors.Loading:
        return errors.Loading("wait", state="pulling", progress=0.5, eta_s=12.0, retry_after_s=11.2)
    if kind is errors.EngineTimeout:
        return errors.EngineTimeout("slow", phase="total")
    if kind is errors.ConfigurationError:
        return errors.ConfigurationError(["a", "b"])
    return kind("text", hint="for the operator only")


@pytest.mark.parametrize("kind", list(tree(LlmaasError)), ids=lambda kind: kind.__name__)
def test_every_error_has_a_rendering(kind: type[LlmaasError]) -> None:
    status, headers, body = render(example(kind))
    error = msgspec.json.decode(body)["error"]
    assert status in STATUSES
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["type"] in TYPES
    assert b"operator" not in body
    named = dict(headers)
    assert named[b"content-type"] == b"application/json"
    assert (b"www-authenticate" in named) == (status == 401)
    assert (b"allow" in named) == (status == 405)
    if status in (429, 503):
        quota = kind is errors.QuotaExceeded
        assert named.get(b"x-should-retry") == (b"false" if quota else None)
        assert quota or int(named[b"retry-after"]) >= 1
    event = render_event(example(kind))
    assert event == b"data: " + body + b"\n\n"
    assert b"\n" not in body


def test_the_table_has_nothing_else() -> None:
    assert set(TABLE) == set(tree(LlmaasError))


def test_codes_are_distinct() -> None:
    codes = [code for _, _, code in TABLE.values()]
    assert len(set(codes)) == len(codes)


def test_loading_says_how_far() -> None:
    _, headers, body = render(example(errors.Loading))
    error = msgspec.json.decode(body)["error"]
    assert (error["state"], error["progress"], error["eta_seconds"]) == ("pulling", 0.5, 12.0)
    assert dict(headers)[b"retry-after"] == b"12"


@pytest.mark.parametrize("wait_s", [float("inf"), float("nan"), 1e300, -5.0, 10.0**18])
def test_any_number_of_seconds_can_be_written(wait_s: float) -> None:
    _, headers, _ = render(errors.EngineBusy("busy", retry_after_s=wait_s))
    assert 1 <= int(dict(headers)[b"retry-after"]) <= 366 * 86_400


def test_an_error_that_cannot_be_rendered_is_still_an_answer() -> None:
    error = errors.InvalidRequest("\ud800")
    status, headers, body = render(error)
    assert (status, dict(headers)[b"content-type"]) == (500, b"application/json")
    assert msgspec.json.decode(body)["error"]["code"] == "internal_error"
    assert render_event(error) == b"data: " + body + b"\n\n"
