"""The errors of both surfaces: class -> status, type and code; and how the admin API renders them, in the same envelope as `/v1`."""

from __future__ import annotations

import math

import msgspec

from llmaas import errors
from llmaas.errors import LlmaasError, MethodNotAllowed

_BAD = "invalid_request_error"
_SERVER = "server_error"
_RETRY_AFTER_S = 1.0

TABLE: dict[type[LlmaasError], tuple[int, str, str | None]] = {
    errors.LlmaasError: (500, _SERVER, "internal_error"),
    errors.InvalidRequest: (400, _BAD, None),
    errors.BodyTooLarge: (413, _BAD, "body_too_large"),
    errors.UnsupportedMediaType: (415, _BAD, "unsupported_media_type"),
    errors.NotAuthenticated: (401, _BAD, "not_authenticated"),
    errors.NotAllowed: (403, "permission_error", "permission_denied"),
    errors.NotFound: (404, _BAD, "not_found"),
    errors.UnknownModel: (404, _BAD, "model_not_found"),
    errors.UnknownPath: (404, _BAD, "unknown_path"),
    errors.MethodNotAllowed: (405, _BAD, "method_not_allowed"),
    errors.Conflict: (409, _BAD, "conflict"),
    errors.Outdated: (412, _BAD, "outdated"),
    errors.RateLimited: (429, "rate_limit_error", "rate_limit_exceeded"),
    errors.QuotaExceeded: (429, "insufficient_quota", "insufficient_quota"),
    errors.Unavailable: (503, _SERVER, "unavailable"),
    errors.EngineError: (502, _SERVER, "engine_error"),
}
"""A class that is not here is rendered as its nearest parent: what only an inference request meets has no line."""


class ErrorObject(msgspec.Struct, frozen=True):
    """`message` is for people, `code` for programs; `param` names the field that is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorObject


def render(error: LlmaasError) -> tuple[int, dict[str, str], ErrorBody]:
    """Status, headers and body of an answer that is an error."""
    status, kind, code = next(TABLE[base] for base in type(error).__mro__ if base in TABLE)
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, errors.QuotaExceeded):
        headers["x-should-retry"] = "false"
    elif status in {429, 503}:
        wait_s = error.retry_after_s if error.retry_after_s is not None else _RETRY_AFTER_S
        headers["retry-after"] = str(max(1, math.ceil(wait_s)))
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = ", ".join(error.allow)
    return status, headers, ErrorBody(ErrorObject(error.message, kind, error.param, code))
