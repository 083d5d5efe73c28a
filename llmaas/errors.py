"""The one error tree. A class answers a question its catcher has: can the caller fix it, may we try elsewhere, when to retry.

    LlmaasError
    ├── InvalidRequest            the caller can fix the request (`param` names the field)
    │   ├── ContextTooLong        prompt and answer do not fit the model's window
    │   ├── BodyTooLarge
    │   └── UnsupportedMediaType
    ├── NotAuthenticated          no valid credential (one text for every reason)
    ├── NotAllowed                a valid credential that may not do this
    ├── NotFound
    │   ├── UnknownModel          also: a model that the key may not use
    │   ├── UnknownPath
    │   └── MethodNotAllowed      `allow` lists what is
    ├── Conflict                  the thing exists already, or changed meanwhile
    │   └── Outdated              it is not any more what the caller read: read again
    ├── RateLimited               a limit said no; `retry_after` says when it may say yes
    ├── QuotaExceeded             money or credit is used up; retrying does not help
    ├── Unavailable               nobody can serve this now
    │   ├── NoBackend             no deployment of the model is usable
    │   ├── Loading               the engine pulls or loads the model (`state`, `progress`, `eta_s`)
    │   ├── Draining              this process is going down
    │   ├── Saturated             every deployment is at its capacity
    │   └── LedgerUnavailable     no place takes the usage row durably
    ├── EngineError               an attempt on one backend went wrong
    │   ├── EngineFailed
    │   ├── EngineTimeout         `phase` names the deadline that passed
    │   ├── EngineRefused         the engine said 4xx of the request: it fails everywhere
    │   └── EngineBusy            the engine said 429 or 503: another one may take it
    ├── ClientGone                the caller hung up; nobody reads an answer
    └── ConfigurationError        settings, fleet file or schema; `problems` lists every mistake

No HTTP status and no wire format here: the surfaces render the tree from one table (`web/errors.py`, to which `v1/errors.py` adds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Final

_LONGEST_WAIT_S: Final = 366 * 86_400.0


class LlmaasError(Exception):
    """`message` is safe to show to a caller; `hint` is for the operator's eyes and names what to do."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False
    """Whether another backend may be tried with the same request, as long as no byte was sent."""

    def __init__(
        self, message: str, *, param: str | None = None, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.hint = hint
        self.retry_after_s = None if retry_after_s is None else _bounded(retry_after_s)


class InvalidRequest(LlmaasError):
    code = "invalid_request"


class ContextTooLong(InvalidRequest):
    code = "context_length_exceeded"


class BodyTooLarge(InvalidRequest):
    code = "body_too_large"


class UnsupportedMediaType(InvalidRequest):
    code = "unsupported_media_type"


class NotAuthenticated(LlmaasError):
    code = "invalid_api_key"


class NotAllowed(LlmaasError):
    code = "not_allowed"


class NotFound(LlmaasError):
    code = "not_found"


class UnknownModel(NotFound):
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        shown = model if len(model) <= 200 else model[:200] + "…"
        super().__init__(f"The model `{shown}` does not exist or you do not have access to it.", param="model")


class UnknownPath(NotFound):
    code = "unknown_path"


class MethodNotAllowed(NotFound):
    code = "method_not_allowed"

    def __init__(self, message: str, allow: Sequence[str]) -> None:
        super().__init__(message)
        self.allow = tuple(allow)


class Conflict(LlmaasError):
    code = "conflict"


class Outdated(Conflict):
    code = "outdated"


class RateLimited(LlmaasError):
    code = "rate_limit_exceeded"
    standing: object | None = None
    """How the limits stand, for the answer's headers (`domain.ports.Standing`)."""


class QuotaExceeded(LlmaasError):
    code = "insufficient_quota"
    standing: object | None = None
    """As on RateLimited."""


class Unavailable(LlmaasError):
    code = "unavailable"


class NoBackend(Unavailable):
    code = "no_backend"
    retryable = True


class Loading(Unavailable):
    """`state` is the engine's own (`pulling`, `starting`, `loading`, `backoff`); `progress` 0..1 or None; `eta_s` seconds or None."""

    code = "loading"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        state: str,
        progress: float | None = None,
        eta_s: float | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.state = state
        self.progress = progress
        self.eta_s = eta_s


class Draining(Unavailable):
    code = "draining"


class Saturated(Unavailable):
    code = "saturated"


class LedgerUnavailable(Unavailable):
    code = "ledger_unavailable"


class EngineError(LlmaasError):
    code = "engine_error"


class EngineFailed(EngineError):
    """`answers`: it works, but this answer is not what was asked for. Another one may do better, and the engine is not set aside
    for it, or a caller could have that done by what he asks.

    `denied`: the engine said 4xx, and nothing tells whether that is because of the request or of how we reach the engine. It is
    set aside only when another one has taken the same request.
    """

    code = "engine_failed"
    retryable = True

    def __init__(self, message: str, *, hint: str | None = None, answers: bool = False, denied: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.answers = answers
        self.denied = denied


class EngineTimeout(EngineError):
    code = "engine_timeout"
    retryable = True

    def __init__(self, message: str, *, phase: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.phase = phase


class EngineRefused(EngineError):
    code = "engine_refused"


class EngineBusy(EngineError):
    code = "engine_busy"
    retryable = True


class ClientGone(LlmaasError):
    code = "client_gone"


class ConfigurationError(LlmaasError):
    """Raised before anything starts; `problems` holds one line for each mistake, all of them at once."""

    code = "configuration"
    EXIT_CODE: ClassVar[int] = 3

    def __init__(self, problems: Sequence[str], *, param: str | None = None) -> None:
        super().__init__("; ".join(problems), param=param)
        self.problems = tuple(problems)


def _bounded(wait_s: float) -> float | None:
    """A number that every surface can write, whoever it comes from."""
    return min(max(wait_s, 0.0), _LONGEST_WAIT_S) if math.isfinite(wait_s) else None


def forget_frames(error: BaseException) -> None:
    """Of an error that was dealt with, and of those that led to it. Its tracebacks hold the frames of the request, with its
    body, and where one of these holds the error in turn, only a search for garbage frees them, which is rare here.
    """
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one.__traceback__ is not None:
            one.__traceback__ = None
            waiting += (one.__cause__, one.__context__)
