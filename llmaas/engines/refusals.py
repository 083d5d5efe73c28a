"""What an engine's refusal or error means to us: the one table of foreign errors, in the words of the engines themselves.

An engine's text is not relayed, with one exception: where its provider may be quoted (`explain_refusals`), the sentence with
which it refuses a request (400, 422) is passed on, made safe, because nothing else tells the caller what to change.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

import structlog

from llmaas.errors import (
    ContextTooLong,
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineRefused,
    InvalidRequest,
    LlmaasError,
)
from llmaas.net.client import Exchange
from llmaas.protocol.lenient import clean, read_json, whole_number

LONGEST_WAIT_S: Final = 120
"""Client libraries honour a `retry-after` up to this, and beyond it do not try again at all."""
_MAX_ERROR_BYTES = 64 * 1024
_SHOWN_CHARS = 300
_NUMBER = r"(\d[\d,]{0,12})"
TOO_LONG: tuple[re.Pattern[str], ...] = tuple(
    re.compile(text.replace("N", _NUMBER))
    for text in (
        r"maximum context length(?: is|:| of)? \(?N",  # OpenAI, vLLM, SGLang, OpenRouter
        r"too large for model with N maximum context length",  # Mistral
        r'"?n_ctx\\?"?:\s*N',  # llama.cpp, in its structured error
        r"available context size(?: \(N tokens\))?",  # llama.cpp, older Ollama
        r"too large to process",  # llama.cpp, more than its batch
        r"longer than the maximum (?:model|input) length(?: of N)?",  # vLLM
        r"longer than the model'?s context length(?: \(N| of N)?",  # Together, SGLang
        r"(?:input|prompt) length[^.]{0,80}exceeds (?:the )?(?:maximum allowed|maximum|context) (?:input )?length(?: of N| \(N)?",
        r"exceeds the (?:model'?s )?context (?:window|limit|length)(?: of N)?",  # OpenAI, older Ollama
        r"exceeded (?:max |the maximum )?context length",  # Ollama's hosted models: the number they tell is the surplus
        r"prompt is too long(?:: \d+ tokens > N maximum)?",  # Anthropic
        r"exceeds? (?:the )?maximum context length",  # Ollama, of embeddings
        r"too long to fit into the model(?: \(context length N\))?",  # vLLM
        r"should not exceed max_num_tokens(?: \(N\)| of N)?",  # TensorRT-LLM
        r"exceeds? (?:the )?context window(?: of N)?",  # llama-cpp-python
        r"(?:context length|context window) (?:is |was |has been )?exceeded",
        r"exceed context limit(?:: \d+ \+ \d+ > N)?",  # Anthropic
        r"input token count[^.]{0,40}exceeds the maximum number of tokens allowed(?: \(N\))?",  # Gemini
        r"maximum prompt length is N",  # xAI
        r"reduce the length of the (?:messages|prompt|input)",  # Groq
        r"`inputs` tokens \+ `max_new_tokens` must be <= N",  # TGI
        r"`inputs` must have (?:less than|at most) N",  # TGI
        r"greater than the context length(?: \(n_ctx: N\))?",  # LM Studio
        r"context length of only N tokens",  # LM Studio
        r"context overflow|context (?:the )?overflows",  # LM Studio
        r"configured (?:limit|context size)(?: of| is) N",  # OpenAI's later models, DS4
        r"input is too long for requested model",  # Bedrock
        r"context window exceeds limit(?: \(N\))?",  # MiniMax
        r"exceeded model token limit(?:: N)?",  # Moonshot
        r"range of input length should be \[\d+, N\]",  # Qwen
        r"prompt exceeds max length",  # Zhipu
        r"prompt token count of \d+ exceeds the limit of N",  # GitHub
        r"too many tokens: [^.]{0,60}prompt",  # Cohere
        r"must have less than N tokens",  # text-embeddings-inference
        r"context_length_exceeded|model_context_window_exceeded|exceed_context_size",  # as a code
    )
)
"""How engines say that a prompt does not fit, most telling first; N is the window where they name it."""
_OF_OUTPUT = re.compile(
    r"(?:max_tokens|max_completion_tokens|max_output_tokens)['\"`]?\s+is too large(?!.*context length)"
)
_NOT_ABLE = (
    (re.compile(r"(?:image|audio|video) input is not supported"), "messages"),
    (re.compile(r"does not support tools"), "tools"),
    (re.compile(r"does not support thinking"), "reasoning_effort"),
    (re.compile(r"does not support insert"), "suffix"),
)
"""What engines say of what a model can't take, and the parameter that asked for it."""
_NOT_WANTED = re.compile(
    r"moderat(?:ion|ed)|\bflagged\b|content[ _-]?(?:policy|filter|management|restriction)|safety (?:system|filter|setting)"
)
"""What providers say of a request whose contents they don't answer, with one of many statuses."""
_OUR_CREDENTIAL = re.compile(
    r"api[ _-]?key|credential|authenti|unauthori[sz]ed|permission|account|billing|subscription"
)
_NO_SUCH_MODEL = re.compile(
    r"model\b[^{}]{0,200}(?:not[ _-]?found|(?:does not|doesn't) exist)|(?:unknown|no such) model"
)
_BAD_SCHEMA = re.compile(r"json schema|json_schema|invalid (?:json )?schema|grammar|guided|structured output")
"""What engines say of a schema that they can't hold an answer to."""
_STATUS_OF = (
    (re.compile(r"rate.?limit|too.?many.?requests|overloaded|insufficient_quota|throttl"), 429),
    (re.compile(r"api_key|authentication|unauthorized|permission|forbidden"), 401),
    (re.compile(r"not.?found"), 404),
    (
        re.compile(r"invalid.?request|bad.?request|invalid.?(?:value|parameter|argument|type)|validation|unsupported"),
        400,
    ),
    (_NOT_WANTED, 400),
)
"""Codes and types of errors, and the status that belongs to them."""
_UNSAFE = re.compile(
    r"[a-z][a-z0-9+.-]*://\S+"  # addresses
    r"|\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?"
    r"|\[?(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}\]?(?!\w)"
    r"|\blocalhost(?::\d+)?|\b[\w-]+(?:\.[\w-]+)+:\d+"
    r"|\b[\w.+-]+@[\w.-]+\w"
    r"|\b(?=[\w-]*[a-z])[\w-]*\d[\w-]*:\d{2,5}\b"  # a host and its port
    r"|\b[\w-]+(?:\.[\w-]+)*\.(?:internal|corp|local|lan|intranet|private|cluster|svc|home|com|net|org|io|ai|cloud)"
    r"(?:\.[\w-]+)*(?::\d+)?\b"
    r"|(?:[a-z]:)?(?:[/\\][\w.@%+~-]+){2,}[/\\]?|[/\\](?:tmp|etc|root|home|usr|var|opt|srv|mnt|data|models?)\b\S*"  # paths
    r"|\bfile \"[^\"]*\"|\bline \d+, in \S+"
    r"|\b(?:bearer|basic)\s+\S{6,}"  # secrets
    r"|\beyj[\w-]{2,}\.[\w-]{4,}(?:\.[\w-]*)?"
    r"|\b[\w-]*(?:token|api[_-]?key|passw(?:or)?d|passphrase|secret|credentials?)\b"
    r"(?:[\"'\\]*\s*[:=]+\s*[\"'\\]*|\s+is\s+[\"']?)(?!(?:required|missing|invalid|not|expired|too|wrong)\b)[^\s\"',}]+"
    r"|\b(?:api[_-]?key|password|secret|token)\s+(?=\S*\d)(?=\S*[a-z])[\w.-]{6,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|\b(?:sk|pk|rk|hf|gh[opsu]|xox[bap]|org|proj)[-_]\S{4,}"
    r"|\b(?=\w*\d)[\w-]{24,}",
    re.IGNORECASE,
)
_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.engines")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a refusal needs to know of its request. `param`: where its text stands. `explain`: the engine may be quoted."""

    param: str
    explain: bool


async def refusal(exchange: Exchange, status: int, asked: Asked) -> LlmaasError:
    """What an engine's answer of another status than 200 means to us."""
    return from_error_body(status, await error_body(exchange), asked, exchange.headers)


async def error_body(exchange: Exchange) -> bytes:
    try:
        body = await exchange.read_all(_MAX_ERROR_BYTES)
    except EngineError as error:
        return str(error).encode()
    return decompressed(body) if b"content-encoding" in exchange.headers else body


def decompressed(body: bytes) -> bytes:
    """As much of an error that was compressed unasked as is read of a plain one; the same bytes when it is none, or in another way."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, _MAX_ERROR_BYTES)
    except zlib.error:
        return body


def from_error_body(status: int, body: bytes, asked: Asked, headers: dict[bytes, bytes] | None = None) -> LlmaasError:
    """`status` 0: an error inside an answer of status 200, which may tell the status that it should have had."""
    lowered = body[:4000].decode("utf-8", "replace").lower()
    status = status or _told_status(body)
    _log.info("engine_error", status=status, size_bytes=len(body))
    if status in {0, 400, 404, 413, 422, 500} and (error := _too_long(lowered, asked)) is not None:
        return error
    for sign, param in _NOT_ABLE:
        if sign.search(lowered):
            return EngineRefused(
                "The engine of this model can't take this request: a part of it is not supported.", param=param
            )
    if status in {400, 422} and _BAD_SCHEMA.search(lowered):
        return EngineRefused(
            "The engine of this model can't hold an answer to this JSON schema.", param="response_format"
        )
    if status in {429, 503, 529}:
        return EngineBusy("The engine is busy.", retry_after_s=wait_s(headers or {}))
    if status in {400, 413, 415, 422}:
        said = sentence(body) if asked.explain and status in {400, 422} else None
        wrong = "it is too large" if status == 413 else "one of its parameters is not supported or not valid"
        plain = f"The engine can't take this request: {wrong}."
        return EngineRefused(plain if said is None else f"The engine can't take this request: {said}")
    is_clients = 400 <= status < 500 and status not in {401, 407}
    if status == 451 or (is_clients and _NOT_WANTED.search(lowered)):
        return EngineRefused("The engine or its provider does not answer this request because of what is in it.")
    denied = is_clients and not _is_ours(status, lowered)
    return EngineFailed("The engine failed.", hint=f"status {status}", denied=denied)


def behind_output(error: LlmaasError) -> LlmaasError:
    """What an error means that comes behind a part of the answer. A request that was answered for a while can't be at fault, whatever
    its engine calls it: vLLM and SGLang call every exception inside a stream a bad request.
    """
    if isinstance(error, EngineRefused | ContextTooLong | InvalidRequest):
        return EngineFailed("The engine broke its answer off.", hint=error.message, denied=True)
    return error


def _is_ours(status: int, lowered: str) -> bool:
    """Whether a refusal is of our credential, our account or our name of the model, whatever a caller asks."""
    match status:
        case 402:
            return "max_tokens" not in lowered  # OpenRouter refuses so what the rest of the money can't pay for
        case 403:
            # A page that says so may come from a firewall, which looks at what is in a request.
            return lowered.lstrip().startswith("{") and _OUR_CREDENTIAL.search(lowered) is not None
        case 404:
            # Others are of endpoints that a server does not have, or of what none of OpenRouter's can do.
            return _NO_SUCH_MODEL.search(lowered) is not None
    return False


def _told_status(body: bytes) -> int:
    """The status of an error that came with 200, as far as its code or type tells one; 0: it does not."""
    try:
        error = read_json(body)
    except EngineError:
        return 0
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    if not isinstance(error, dict):
        return 0
    for name in ("code", "error_code", "status_code", "status", "type"):
        told = error.get(name)
        if isinstance(told, str):
            known = next((status for words, status in _STATUS_OF if words.search(told.lower())), None)
            if known is not None:
                return known
        told = whole_number(told)
        if told is not None and 40_000 <= told < 60_000:
            told //= 100  # FastChat counts on from the status
        if told is not None and 400 <= told < 600:
            return told
    return 0


def wait_s(headers: dict[bytes, bytes]) -> float | None:
    """Seconds that an engine wants its callers to wait (RFC 9110, section 10.2.3), at least 1 and at most LONGEST_WAIT_S; None when
    it does not say. A date is held against the answer's own, so that no clock has to agree with another.
    """
    value = headers.get(b"retry-after", b"").strip()[:64].decode("latin-1")
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = parsedate_to_datetime(value)
            seconds = (until - parsedate_to_datetime(headers.get(b"date", b"").decode("latin-1"))).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    if not seconds >= 0:
        return None
    return min(max(seconds, 1.0), LONGEST_WAIT_S)


def sentence(body: bytes) -> str | None:
    """What an engine says is wrong, in one short line without addresses, paths and secrets; None when it says nothing."""
    try:
        text = _message(read_json(body))
    except EngineError:
        return None
    if text is None:
        return None
    line = " ".join("".join(char if char.isprintable() else " " for char in clean(text)[: 4 * _SHOWN_CHARS]).split())
    line = _UNSAFE.sub("…", line)
    if len(line) > _SHOWN_CHARS:
        line = line[:_SHOWN_CHARS].rstrip() + "…"
    return line or None


def _message(value: Any) -> str | None:
    """The sentence in an error of any engine: in `error`, `message` or `detail`, of which the last may be a list."""
    match value:
        case str():
            return value if value.strip() else None
        case list():
            found = [text for item in value[:3] if (text := _message(item)) is not None]
            return "; ".join(found) or None
        case dict():
            return next((t for name in ("error", "message", "msg", "detail") if (t := _message(value.get(name)))), None)
    return None


def told_window(lowered: str) -> int | None:
    """The window that a request does not fit into, as an engine says; 0: it does not say how large that is; None: it says no such thing."""
    found = [match for pattern in TOO_LONG if (match := pattern.search(lowered)) is not None]
    if not found:
        return None
    return next((int(n.replace(",", "")) for match in found for n in match.groups() if n), 0)


def _too_long(lowered: str, asked: Asked) -> ContextTooLong | None:
    if _OF_OUTPUT.search(lowered):
        return None
    window = told_window(lowered)
    if window is None:
        return None
    limit = (
        "This request exceeds the model's maximum context length."
        if not window
        else f"This model's maximum context length is {window} tokens. Input tokens exceed the configured limit of {window} tokens."
    )
    part = {"messages": "messages or the completion", "prompt": "prompt or the completion"}.get(
        asked.param, asked.param
    )
    return ContextTooLong(f"{limit} Please reduce the length of the {part}.", param=asked.param)
