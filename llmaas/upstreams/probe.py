"""Asking an inference server what it is and what it serves: for `providers test`, for `doctor`, to add a machine by its address."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmaas.domain.models import Backend, ProviderKind
from llmaas.settings import Secret
from llmaas.sockets import Permits, connector

_MOST_BYTES = 8 * 1024 * 1024
_TIMEOUT_S = 5.0
_QUICK_S = 1.5
"""For a whole answer, however slowly it comes."""
_USUAL_PORTS = (11434, 8000, 8080, 1234, 30000)
"""Of Ollama, vLLM, llama.cpp, LM Studio, SGLang."""
_KINDS = {"vllm": ProviderKind.VLLM, "llamacpp": ProviderKind.LLAMA_CPP}


class ProbeFailed(Exception):
    """The text says what is wrong and what to do. `answered`: something speaks HTTP there."""

    def __init__(self, text: str, *, answered: bool = True) -> None:
        super().__init__(text)
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Found:
    """What a backend says about itself; `models` are its own names."""

    server: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Discovered:
    """A server at an address that somebody typed, with what a provider and a backend have to say to reach it."""

    base_url: str
    kind: ProviderKind
    found: Found


class Prober:
    """`permits`: None lets it connect anywhere."""

    def __init__(self, permits: Permits | None = None, timeout_s: float = _TIMEOUT_S) -> None:
        self._permits = permits
        self._timeout_s = timeout_s

    def look_at(self, backend: Backend, kind: ProviderKind, credential: Secret | None) -> Found:
        """Raises ProbeFailed."""
        if kind is ProviderKind.OLLAMA:
            return self._ollama(backend.base_url.removesuffix("/v1"), credential)
        return self._compatible(backend.base_url, credential)[0]

    def discover(self, address: str, credential: Secret | None) -> Discovered:
        """`address`: a URL, a host, or a host with its port; without one the usual ports are tried in turn. Raises ProbeFailed."""
        if "@" in address.partition("://")[2].partition("/")[0] or ("@" in address and "://" not in address):
            raise ProbeFailed("must hold no user and password: a credential has a field of its own", answered=False)
        failure = ProbeFailed("is no address such as 10.0.0.12:8000 or https://models.example.org/v1")
        quick = Prober(self._permits, _QUICK_S)
        for root in _roots(address):
            try:
                return quick.at(root, credential)
            except ProbeFailed as error:
                failure = error
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
        models = _names(self._get(f"{root}/api/tags", credential).get("models"), "name")
        return Found(f"Ollama {_text(version)}" if version else "Ollama", models)

    def _compatible(self, base_url: str, credential: Secret | None) -> tuple[Found, frozenset[str]]:
        data = self._get(f"{base_url}/models", credential).get("data")
        if not isinstance(data, list):
            raise ProbeFailed("answers, but not with a list of models: is this an OpenAI-compatible server?")
        owners = sorted({_text(item["owned_by"]) for item in data if isinstance(item, dict) and item.get("owned_by")})
        server = f"OpenAI-compatible ({', '.join(owners)})" if owners else "OpenAI-compatible"
        return Found(server, _names(data, "id")), frozenset(owners)

    def _get(self, url: str, credential: Secret | None) -> dict[str, Any]:
        return _document(url, credential, *get_json(url, credential, self._timeout_s, self._permits))


def get_json(
    url: str, credential: Secret | None = None, timeout_s: float = _TIMEOUT_S, permits: Permits | None = None
) -> tuple[int, Any]:
    """Status and decoded body (None when it is not JSON). Redirects are not followed. Raises ProbeFailed."""
    try:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        # Told in any case: without a port the client takes the end of an IPv6 address for one.
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    except ValueError as error:
        raise ProbeFailed(f"is no address: {error}", answered=False) from error
    if not host:
        raise ProbeFailed("is no address: it names no host", answered=False)
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host, port, timeout=timeout_s)
    late = threading.Event()
    deadline = threading.Timer(timeout_s, _cut_off, (connection, late))
    deadline.daemon = True
    if permits is not None:
        connection._create_connection = connector(permits, "upstream_allow")  # type: ignore[attr-defined] # noqa: SLF001 - its one way in
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
        reason = _reason(TimeoutError() if late.is_set() else error, host, port, timeout_s)
        raise ProbeFailed(reason, answered=False) from error
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
    if status in {401, 403}:
        said = "refuses the credential" if credential else "asks for a credential"
        raise ProbeFailed(f"{said} ({status}); set it with `llmaas providers set-secret` or api_key_env")
    if status == 404:
        raise ProbeFailed(f"has no {urlsplit(url).path} (404); check the path of base_url (most servers want …/v1)")
    if status >= 300:
        raise ProbeFailed(f"answers {status} to GET {urlsplit(url).path}")
    if not isinstance(document, dict):
        raise ProbeFailed("answers, but not with a JSON object: is this an inference server?")
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


def _names(items: object, key: str) -> tuple[str, ...]:
    if not isinstance(items, list):
        return ()
    return tuple(_text(item[key]) for item in items if isinstance(item, dict) and item.get(key))


def _text(value: object) -> str:
    """JSON can hold halves of characters, which nothing can be written with."""
    return str(value).encode("utf-8", "replace").decode()


def _reason(error: Exception, host: str, port: int, timeout_s: float) -> str:
    match error:
        case socket.gaierror():
            return f"the host name {host} is not known; check base_url and DNS"
        case ssl.SSLCertVerificationError():
            return f"the certificate of {host} is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"no TLS on {host}:{port}: is it http:// instead of https://?"
        case ConnectionRefusedError():
            return f"nothing listens on {host}:{port}; start the server, or check base_url"
        case TimeoutError():
            return f"no answer from {host}:{port} within {timeout_s:g} s; check the address and the firewall"
        case http.client.HTTPException() | UnicodeError():
            return f"{host}:{port} does not speak HTTP: is it https:// instead of http://?"
        case OSError():
            return f"{host}:{port} cannot be reached: {error.strerror or error}"
    return str(error)
