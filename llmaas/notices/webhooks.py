"""Webhooks as the Standard Webhooks specification (version 1.0.0) has them: JSON, an id, a time, and a signature of all three."""

from __future__ import annotations

import asyncio
import base64
import hmac
import http.client
import ssl
from hashlib import blake2b
from urllib.parse import urlsplit

from llmaas.domain.alerts import NotDelivered
from llmaas.sockets import Permits, connector

_TIMEOUT_S = 15.0
_READ_BYTES = 64 * 1024


class Webhooks:
    """`permits` judges each address that is connected to. `pepper`: what the secrets of channels are made from."""

    def __init__(self, permits: Permits, pepper: bytes) -> None:
        self._permits = permits
        self._pepper = pepper

    def secret(self, channel_id: str) -> str:
        """What the receiver checks signatures with: the same for a channel as long as it is there."""
        key = blake2b(channel_id.encode(), key=self._pepper, digest_size=32, person=b"webhook").digest()
        return f"whsec_{base64.b64encode(key).decode()}"

    async def send(self, channel_id: str, url: str, body: bytes, *, message_id: str, at_s: int) -> None:
        """Raises NotDelivered, also for a redirect. What is answered is not looked at but for its status."""
        signature = sign(self.secret(channel_id), message_id, at_s, body)
        headers = {
            "content-type": "application/json",
            "user-agent": "llmaas",
            "webhook-id": message_id,
            "webhook-timestamp": str(at_s),
            "webhook-signature": signature,
        }
        await asyncio.to_thread(self._post, url, body, headers)

    def _post(self, url: str, body: bytes, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        secure, host = parts.scheme == "https", parts.hostname or ""
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(host, parts.port or (443 if secure else 80), timeout=_TIMEOUT_S)
        connection._create_connection = connector(self._permits, "webhook_allow")  # type: ignore[attr-defined] # noqa: SLF001 - its one way in
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("POST", target, body, headers)
            answer = connection.getresponse()
            answer.read(_READ_BYTES)
        except ssl.SSLError as error:
            raise NotDelivered(f"No trusted TLS with {host}: {error.reason}") from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise NotDelivered(f"{host} cannot be reached: {_reason(error)}") from error
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise NotDelivered(f"{host} answered {answer.status}; a 2xx is what counts as delivered.")


def sign(secret: str, message_id: str, at_s: int, body: bytes) -> str:
    """`webhook-signature` of a message."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = hmac.digest(key, f"{message_id}.{at_s}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(signed).decode()}"


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_TIMEOUT_S:g} s"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
