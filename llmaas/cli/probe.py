"""Asking an inference server what it is and what it serves, for `providers test` and `doctor`."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmaas.domain.models import Backend, ProviderKind
from llmaas.settings import Secret

_MOST_BYTES = 8 * 1024 * 1024
_TIMEOUT_S = 5.0


class ProbeFailed(Exception):
    """The text says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a backend says about itself; `models` are its own names."""

    server: str
    models: tuple[str, ...]


def look_at(backend: Backend, kind: ProviderKind, credential: Secret | None) -> Found:
    """Raises ProbeFailed."""
    if kind is ProviderKind.OLLAMA:
        root = backend.base_url.removesuffix("/v1")
        version = _get(f"{root}/api/version", credential).get("version")
        models = _names(_get(f"{root}/api/tags", credential).get("models"), "name")
        return Found(f"Ollama {version}" if version else "Ollama", models)
    document = _get(f"{backend.base_url}/models", credential)
    data = document.get("data")
    if not isinstance(data, list):
        raise ProbeFailed("answers, but not with a list of models: is this an OpenAI-compatible server?")
    owners = sorted({str(item["owned_by"]) for item in data if isinstance(item, dict) and item.get("owned_by")})
    return Found(f"OpenAI-compatible ({', '.join(owners)})" if owners else "OpenAI-compatible", _names(data, "id"))


def get_json(url: str, credential: Secret | None = None, timeout_s: float = _TIMEOUT_S) -> tuple[int, Any]:
    """Status and decoded body (None when it is not JSON). Redirects are not followed. Raises ProbeFailed."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host, port, timeout=timeout_s)
    headers = {"accept": "application/json", "user-agent": "llmaas"}
    if credential:
        headers["authorization"] = f"Bearer {credential.reveal()}"
    try:
        connection.request("GET", parts.path or "/", headers=headers)
        answer = connection.getresponse()
        body = answer.read(_MOST_BYTES)
        try:
            return answer.status, json.loads(body)
        except ValueError:
            return answer.status, None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise ProbeFailed(_reason(error, host, port or (443 if secure else 80))) from error
    finally:
        connection.close()


def _get(url: str, credential: Secret | None) -> dict[str, Any]:
    status, document = get_json(url, credential)
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


def _names(items: object, key: str) -> tuple[str, ...]:
    if not isinstance(items, list):
        return ()
    return tuple(str(item[key]) for item in items if isinstance(item, dict) and item.get(key))


def _reason(error: Exception, host: str, port: int) -> str:
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
            return f"no answer from {host}:{port} within {_TIMEOUT_S:g} s; check the address and the firewall"
        case http.client.HTTPException() | UnicodeError():
            return f"{host}:{port} does not speak HTTP: is it https:// instead of http://?"
        case OSError():
            return f"{host}:{port} cannot be reached: {error.strerror or error}"
    return str(error)
