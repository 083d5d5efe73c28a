"""Asking an inference server what it is and what it serves: for `providers test`, for `doctor`, to add a machine by its address."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from llmaas.domain.declarations import MAX_TOKENS
from llmaas.domain.models import Backend, ProviderKind
from llmaas.domain.values import url_fault
from llmaas.net.names import HostNames
from llmaas.net.sockets import AddressDenied, Permits, anywhere, connector
from llmaas.settings import Secret

_MOST_BYTES = 8 * 1024 * 1024
_TIMEOUT_S = 5.0
_QUICK_S = 1.5
"""For a whole answer, however slowly it comes."""
_USUAL_PORTS = (11434, 8000, 8080, 1234, 30000)
"""Of Ollama, vLLM, llama.cpp, LM Studio, SGLang."""
_WINDOWS = ("max_model_len", "context_length", "context_window", "max_context_length", "n_ctx", "n_ctx_train")
"""Of vLLM and SGLang, OpenRouter and Ollama, Groq, Mistral and LM Studio, llama.cpp; the last is what a model was trained with."""
_MOST_OWNER_CHARS = 200
_KINDS = {"vllm": ProviderKind.VLLM, "llamacpp": ProviderKind.LLAMA_CPP}


ProbeReason = Literal[
    "asks_credential",
    "bad_address",
    "certificate",
    "denied",
    "late",
    "no_list",
    "no_path",
    "no_tls",
    "not_http",
    "not_json",
    "refused",
    "refuses_credential",
    "status",
    "unknown_host",
    "unreachable",
    "user_in_address",
]


class ProbeFailed(Exception):
    """The text says what is wrong and what to do; `reason` and `facts` say it to who has other words for it. `answered`:
    something speaks HTTP there.
    """

    def __init__(self, reason: ProbeReason, text: str, *, answered: bool = True, **facts: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.facts = facts
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Served:
    """One model of a server, by the server's own name. `window`: the tokens that it takes, None when it does not say so.
    `owner`: as the server says, else "".
    """

    name: str
    window: int | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a backend says about itself."""

    server: str
    served: tuple[Served, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Its own names."""
        return tuple(one.name for one in self.served)


@dataclass(frozen=True, slots=True)
class Discovered:
    """A server at an address that somebody typed, with what a provider and a backend have to say to reach it."""

    base_url: str
    kind: ProviderKind
    found: Found


class Prober:
    def __init__(
        self, permits: Permits = anywhere, timeout_s: float = _TIMEOUT_S, names: HostNames | None = None
    ) -> None:
        self._permits = permits
        self._timeout_s = timeout_s
        self._names = names or HostNames()

    def look_at(self, backend: Backend, kind: ProviderKind, credential: Secret | None) -> Found:
        """Raises ProbeFailed."""
        if kind is ProviderKind.OLLAMA:
            return self._ollama(backend.base_url.removesuffix("/v1"), credential)
        return self._compatible(backend.base_url, credential)[0]

    def discover(self, address: str, credential: Secret | None) -> Discovered:
        """`address`: a URL, a host, or a host with its port; without one the usual ports are tried in turn. Raises ProbeFailed."""
        if "@" in address.partition("://")[2].partition("/")[0] or ("@" in address and "://" not in address):
            text = "must hold no user and password: a credential has a field of its own"
            raise ProbeFailed("user_in_address", text, answered=False)
        failure = ProbeFailed("bad_address", "is no address such as 10.0.0.12:8000 or https://models.example.org/v1")
        quick = Prober(self._permits, _QUICK_S, self._names)
        for root in _roots(address):
            try:
                return quick.at(root, credential)
            except ProbeFailed as error:
                failure = error
                if error.reason == "unknown_host":
                    break
        raise failure

    def at(self, root: str, credential: Secret | None) -> Discovered:
        """What answers below that URL, with `/v1` or without."""
        root = root.rstrip("/").removesuffix("/v1")
        try:
            return Discovered(root, ProviderKind.OLLAMA, self._ollama(root, credential))
        except ProbeFailed as error:
            if not error.answered:
                raise
        found, owners = self._compatible(f"{root}/v1", credential)
        kinds = [kind for owner, kind in _KINDS.items() if owner in owners]
        return Discovered(f"{root}/v1", kinds[0] if kinds else ProviderKind.OPENAI, found)

    def _ollama(self, root: str, credential: Secret | None) -> Found:
        version = self._get(f"{root}/api/version", credential).get("version")
        served = _served(self._get(f"{root}/api/tags", credential).get("models"), "name")
        windows = {one.name: one.window for one in self._loaded(root, credential)}
        known = tuple(replace(one, window=windows.get(one.name)) for one in served)
        return Found(f"Ollama {_text(version)}" if version else "Ollama", known)

    def _loaded(self, root: str, credential: Secret | None) -> tuple[Served, ...]:
        """What it has in memory. Only of that it tells the window that it runs with; what a model was trained with would be
        asked for with each request, and may be more than its memory holds.
        """
        try:
            return _served(self._get(f"{root}/api/ps", credential).get("models"), "name")
        except ProbeFailed:
            return ()  # an old one

    def _compatible(self, base_url: str, credential: Secret | None) -> tuple[Found, frozenset[str]]:
        data = self._get(f"{base_url}/models", credential).get("data")
        if not isinstance(data, list):
            text = "answers, but not with a list of models: is this an OpenAI-compatible server?"
            raise ProbeFailed("no_list", text)
        owners = sorted({_text(item["owned_by"]) for item in data if isinstance(item, dict) and item.get("owned_by")})
        server = f"OpenAI-compatible ({', '.join(owners)})" if owners else "OpenAI-compatible"
        return Found(server, _served(data, "id")), frozenset(owners)

    def _get(self, url: str, credential: Secret | None) -> dict[str, Any]:
        return _document(url, credential, *get_json(url, credential, self._timeout_s, self._permits, self._names))


def get_json(
    url: str,
    credential: Secret | None = None,
    timeout_s: float = _TIMEOUT_S,
    permits: Permits = anywhere,
    names: HostNames | None = None,
) -> tuple[int, Any]:
    """Status and decoded body (None when it is not JSON). Redirects are not followed. Raises ProbeFailed."""
    fault = url_fault(url)
    if fault is not None:
        raise ProbeFailed("bad_address", fault, answered=False)
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    # Told in any case: without a port the client takes the end of an IPv6 address for one.
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    if credential and not (credential.reveal().isascii() and credential.reveal().isprintable()):
        text = "cannot be given this credential: it holds characters that no header has"
        raise ProbeFailed("refuses_credential", text, status="400")
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host, port, timeout=timeout_s)
    late = threading.Event()
    deadline = threading.Timer(timeout_s, _cut_off, (connection, late))
    deadline.daemon = True
    connect = connector(permits, "upstream_allow", names or HostNames())
    connection._create_connection = connect  # type: ignore[attr-defined] # noqa: SLF001 - its one way in
    headers = {"accept": "application/json", "user-agent": "llmaas"}
    if credential:
        headers["authorization"] = f"Bearer {credential.reveal()}"
    try:
        deadline.start()
        connection.request("GET", parts.path or "/", headers=headers)
        answer = connection.getresponse()
        body = answer.read(_MOST_BYTES)
        if late.is_set():
            raise TimeoutError
        try:
            return answer.status, json.loads(body)
        except (ValueError, RecursionError):
            return answer.status, None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise _failure(TimeoutError() if late.is_set() else error, host, port, timeout_s) from error
    finally:
        deadline.cancel()
        connection.close()


def _cut_off(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    """A server that sends a byte now and then would keep the thread that reads from it."""
    late.set()
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def _document(url: str, credential: Secret | None, status: int, document: object) -> dict[str, Any]:
    path = urlsplit(url).path
    if status in {401, 403}:
        reason: ProbeReason = "refuses_credential" if credential else "asks_credential"
        said = "refuses the credential" if credential else "asks for a credential"
        how = "set it with `llmaas providers set-secret` or api_key_env"
        raise ProbeFailed(reason, f"{said} ({status}); {how}", status=str(status))
    if status == 404:
        text = f"has no {path} (404); check the path of base_url (most servers want …/v1)"
        raise ProbeFailed("no_path", text, path=path)
    if status >= 300:
        raise ProbeFailed("status", f"answers {status} to GET {path}", status=str(status), path=path)
    if not isinstance(document, dict):
        raise ProbeFailed("not_json", "answers, but not with a JSON object: is this an inference server?")
    return document


def _roots(address: str) -> Iterator[str]:
    """URLs that an address may mean."""
    text = address.strip().rstrip("/")
    if not text or any(c.isspace() for c in text):
        return
    if text.startswith(("http://", "https://")):
        yield text
        return
    try:
        port = urlsplit(f"http://{text}").port
    except ValueError:
        return
    if port is not None:
        yield f"http://{text}"
        return
    for usual in _USUAL_PORTS:
        yield f"http://{text}:{usual}"


def _served(items: object, key: str) -> tuple[Served, ...]:
    if not isinstance(items, list):
        return ()
    return tuple(
        Served(_text(item[key]), _window(item), _text(item.get("owned_by") or "")[:_MOST_OWNER_CHARS])
        for item in items
        if isinstance(item, dict) and item.get(key)
    )


def _window(item: dict[str, Any]) -> int | None:
    """The tokens of context that a server says it takes; llama.cpp tells it in `meta`."""
    meta = item.get("meta")
    for told in (item, meta if isinstance(meta, dict) else {}):
        for name in _WINDOWS:
            value = told.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_TOKENS:
                return value
    return None


def _text(value: object) -> str:
    """JSON can hold halves of characters, which nothing can be written with."""
    return str(value).encode("utf-8", "replace").decode()


def _failure(error: Exception, host: str, port: int, timeout_s: float) -> ProbeFailed:
    place = f"{host}:{port}"

    def failed(reason: ProbeReason, text: str, **facts: str) -> ProbeFailed:
        return ProbeFailed(reason, text, answered=False, host=host, place=place, **facts)

    match error:
        case socket.gaierror():
            return failed("unknown_host", f"the host name {host} is not known; check base_url and DNS")
        case ssl.SSLCertVerificationError():
            why = error.verify_message
            return failed("certificate", f"the certificate of {host} is not trusted: {why}", why=why)
        case ssl.SSLError():
            return failed("no_tls", f"no TLS on {place}: is it http:// instead of https://?")
        case ConnectionRefusedError():
            return failed("refused", f"nothing listens on {place}; start the server, or check base_url")
        case AddressDenied():
            return failed("denied", f"{place} cannot be reached: {error.strerror}")
        case TimeoutError():
            text = f"no answer from {place} within {timeout_s:g} s; check the address and the firewall"
            return failed("late", text, seconds=f"{timeout_s:g}")
        case http.client.HTTPException() | UnicodeError():
            return failed("not_http", f"{place} does not speak HTTP: is it https:// instead of http://?")
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return failed("unreachable", f"{place} cannot be reached: {why}", why=why)
