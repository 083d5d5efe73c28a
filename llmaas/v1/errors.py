"""The one renderer of errors for `/v1`; the body is always `{"error": {…}}` with four keys."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import structlog

from llmaas import errors
from llmaas.domain.ports import Standing
from llmaas.errors import LlmaasError, Loading, MethodNotAllowed
from llmaas.v1.standing import standing_headers
from llmaas.web.errors import TABLE as SHARED

_BAD = "invalid_request_error"
_SERVER = "server_error"

TABLE: dict[type[LlmaasError], tuple[int, str, str | None]] = {
    **SHARED,
    errors.ContextTooLong: (400, _BAD, "context_length_exceeded"),
    errors.NotAuthenticated: (401, _BAD, "invalid_api_key"),
    errors.NoBackend: (503, _SERVER, "no_backend"),
    errors.Loading: (503, _SERVER, "loading"),
    errors.Draining: (503, _SERVER, "draining"),
    errors.Saturated: (503, _SERVER, "saturated"),
    errors.LedgerUnavailable: (503, _SERVER, "ledger_unavailable"),
    errors.EngineFailed: (502, _SERVER, "engine_failed"),
    errors.EngineTimeout: (504, _SERVER, "engine_timeout"),
    errors.EngineRefused: (400, _BAD, "engine_refused"),
    errors.EngineBusy: (503, _SERVER, "engine_busy"),
    errors.ClientGone: (499, _BAD, "client_gone"),
    errors.ConfigurationError: (500, _SERVER, "configuration"),
}
"""What the admin API has too, and what only a request for inference meets."""
_RETRY_AFTER_S = 1.0
_json = msgspec.json.Encoder()
_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.v1")
_UNTOLD = LlmaasError("Something went wrong on our side.")
"""In place of an error that can't be rendered: whatever was wrong with it, the caller gets an answer."""


def error_object(error: LlmaasError) -> dict[str, Any]:
    _, kind, code = TABLE[type(error)]
    body: dict[str, Any] = {"message": error.message, "type": kind, "param": error.param, "code": code}
    if isinstance(error, Loading):
        body |= {"state": error.state, "progress": error.progress, "eta_seconds": error.eta_s}
    return {"error": body}


def render(error: LlmaasError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of an answer that is an error."""
    try:
        return _render(error)
    except Exception:  # noqa: BLE001 - the net under the renderer: without it the connection would end without a byte
        _log.exception("error_not_rendered", code=error.code)
        return _render(_UNTOLD)


def _render(error: LlmaasError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    status, _, _ = TABLE[type(error)]
    headers = [(b"content-type", b"application/json")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (429, 503):
        if isinstance(error, errors.QuotaExceeded):
            headers.append((b"x-should-retry", b"false"))
        else:
            wait_s = error.retry_after_s if error.retry_after_s is not None else _RETRY_AFTER_S
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait_s))))
    standing = getattr(error, "standing", None)
    if isinstance(standing, Standing):
        headers += standing_headers(standing)
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allow).encode()))
    return status, headers, _json.encode(error_object(error))


def render_event(error: LlmaasError) -> bytes:
    """The event that ends a stream whose head is sent already."""
    return b"data: " + render(error)[2] + b"\n\n"
