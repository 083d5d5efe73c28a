"""A small client of the service's own HTTP API, for commands that are its customers."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from llmaas.domain.values import url_fault
from llmaas.errors import InvalidRequest, LlmaasError, Loading, NotAuthenticated, Unavailable
from llmaas.protocol.sse import DONE, SseDecoder
from llmaas.settings import Secret, Settings

_TIMEOUT_S = 600.0
_CONNECT_TIMEOUT_S = 10.0
_READ_BYTES = 64 * 1024


@dataclass(slots=True)
class Told:
    """What an answer said about itself. Times are seconds from sending the request."""

    model: str | None = None
    backend: Mapping[str, Any] | None = None
    output_tokens: int | None = None
    first_s: float | None = None
    total_s: float | None = None

    @property
    def tokens_per_s(self) -> float | None:
        if not self.output_tokens or self.first_s is None or self.total_s is None or self.total_s <= self.first_s:
            return None
        return self.output_tokens / (self.total_s - self.first_s)


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    reasoning: bool


class Service:
    """One service at `url` (with or without `/v1`)."""

    def __init__(self, url: str, key: Secret) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        if fault := url_fault(base):
            raise InvalidRequest(f"The address {fault}.", param="url")
        parts = urlsplit(base)
        self.url = base
        self._secure = parts.scheme == "https"
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path
        self._headers = {
            "authorization": f"Bearer {key.reveal()}",
            "content-type": "application/json",
            "accept": "text/event-stream, application/json",
            "user-agent": "llmaas-chat",
        }

    def models(self) -> list[dict[str, Any]]:
        """Raises what `stream` raises."""
        connection = self._send("GET", "/v1/models", None)
        try:
            answer = self._answer(connection)
            return cast("list[dict[str, Any]]", json.loads(answer.read()).get("data", []))
        except (ValueError, AttributeError) as error:
            raise Unavailable(f"{self.url} does not answer like an LLM service.") from error
        finally:
            connection.close()

    def stream(self, model: str, messages: Sequence[Mapping[str, str]], told: Told) -> Generator[Piece, None, None]:
        """The pieces of an answer as they come; `told` is filled in on the way. Closing it stops the answer.

        Raises NotAuthenticated, Loading, Unavailable when nobody answers, LlmaasError with the service's own message.
        """
        body = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        started = time.monotonic()
        connection = self._send("POST", "/v1/chat/completions", json.dumps(body).encode())
        try:
            answer = self._answer(connection)
            decoder = SseDecoder()
            while data := self._read(answer):
                for payload in decoder.feed(data):
                    if payload == DONE:
                        told.total_s = time.monotonic() - started
                        return
                    yield from _pieces(_decoded(payload), told, started)
            raise Unavailable("The answer broke off: the connection was closed before its end.")
        finally:
            connection.close()

    def _send(self, method: str, path: str, body: bytes | None) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_CONNECT_TIMEOUT_S)
        try:
            connection.connect()
            connection.sock.settimeout(_TIMEOUT_S)
            connection.request(method, self._path + path, body, self._headers)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from error
        return connection

    def _answer(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        try:
            answer = connection.getresponse()
            if answer.status != 200:
                raise _refusal(answer.status, answer.getheader("retry-after"), answer.read(_READ_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        return answer

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.read1(_READ_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> Unavailable:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        hint = "is it running? `llmaas serve` starts it; --url names another address"
        return Unavailable(f"{self.url} does not answer: {reason}", hint=hint)


def own_url(settings: Settings) -> str:
    """Where the service with these settings is reached from this machine."""
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - told apart, not listened on
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{wildcard.get(settings.host, host)}:{settings.port}"


def _pieces(event: dict[str, Any], told: Told, started: float) -> Iterator[Piece]:
    if isinstance(error := event.get("error"), dict):
        raise LlmaasError(str(error.get("message") or "The answer broke off."))
    told.model = event.get("model") or told.model
    told.backend = event.get("backend") or told.backend
    if isinstance(usage := event.get("usage"), dict):
        told.output_tokens = usage.get("completion_tokens")
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        for key in ("reasoning_content", "content"):
            if text := delta.get(key):
                told.first_s = told.first_s or time.monotonic() - started
                yield Piece(text, key != "content")


def _decoded(payload: bytes) -> dict[str, Any]:
    try:
        event = json.loads(payload)
    except ValueError as error:
        raise Unavailable("The answer holds an event that is not JSON.") from error
    return event if isinstance(event, dict) else {}


def _refusal(status: int, retry_after: str | None, body: bytes) -> LlmaasError:
    try:
        error = json.loads(body)["error"]
        message, code = str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        return Unavailable(f"The service answers {status}, and not like an LLM service.", hint="check --url")
    if status == 401:
        return NotAuthenticated(message, hint="give a key with LLMAAS_KEY or --key; `llmaas keys create` makes one")
    if code == "loading":
        retry_s = float(retry_after) if retry_after and retry_after.isdigit() else 1.0
        return Loading(
            message,
            state=str(error.get("state") or "loading"),
            progress=error.get("progress"),
            eta_s=error.get("eta_seconds"),
            retry_after_s=retry_s,
        )
    return LlmaasError(message)
