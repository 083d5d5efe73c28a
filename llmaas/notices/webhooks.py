"""Webhooks as the Standard Webhooks specification (version 1.0.0) has them: JSON, an id, a time, and a signature of all three."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import http.client
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from urllib.parse import SplitResult, urlsplit

import structlog

from llmaas.domain.alerts import NotDelivered
from llmaas.net.names import HostNames
from llmaas.net.sockets import AddressDenied, Permits, connector

_TIMEOUT_S = 10.0
_AT_ONCE = 4
_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.notices")


class Webhooks:
    """`permits` judges each address that is connected to. `pepper`: what the secrets of channels are made from.

    `timeout_s`: for one call, from connecting to its status.
    """

    def __init__(
        self, permits: Permits, pepper: bytes, *, timeout_s: float = _TIMEOUT_S, names: HostNames | None = None
    ) -> None:
        self._permits = permits
        self._pepper = pepper
        self._timeout_s = timeout_s
        self._names = names or HostNames()
        self._threads = ThreadPoolExecutor(_AT_ONCE, "webhooks")

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
        parts = urlsplit(url)
        connection = self._connection(parts)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            async with asyncio.timeout(self._timeout_s):
                loop = asyncio.get_running_loop()
                status = await loop.run_in_executor(self._threads, _post, connection, target, body, headers)
        except TimeoutError as error:
            raise NotDelivered(f"{connection.host} did not answer within {self._timeout_s:g} s.") from error
        except ssl.SSLError as error:
            raise NotDelivered(f"No trusted TLS with {connection.host}: {error.reason}") from error
        except (socket.gaierror, AddressDenied, UnicodeError) as error:
            # One text for all of them: owners of projects must not learn which names and addresses there are in our network.
            _log.info("webhook_not_sent", host=connection.host, reason=_reason(error))
            raise NotDelivered(
                f"{connection.host} leads to no address that webhooks may go to. An operator can allow one by webhook_allow."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise NotDelivered(f"{connection.host} cannot be reached: {_reason(error)}") from error
        finally:
            _let_go(connection)
        if not 200 <= status < 300:
            raise NotDelivered(f"{connection.host} answered {status}; a 2xx is what counts as delivered.")

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        secure, host = parts.scheme == "https", parts.hostname or ""
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(host, parts.port or (443 if secure else 80), timeout=self._timeout_s)
        connection._create_connection = connector(self._permits, "webhook_allow", self._names)  # type: ignore[attr-defined] # noqa: SLF001 - its one way in
        return connection


def _post(connection: http.client.HTTPConnection, target: str, body: bytes, headers: dict[str, str]) -> int:
    connection.request("POST", target, body, headers)
    return connection.getresponse().status


def _let_go(connection: http.client.HTTPConnection) -> None:
    """Also of a thread that reads from it: who answers a byte now and then must not keep it."""
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()


def sign(secret: str, message_id: str, at_s: int, body: bytes) -> str:
    """`webhook-signature` of a message."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = hmac.digest(key, f"{message_id}.{at_s}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(signed).decode()}"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
