"""E-mail through SMTP, in plain text."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from urllib.parse import unquote, urlsplit

from llmaas.domain.alerts import NotDelivered
from llmaas.net.names import HostNames
from llmaas.net.sockets import anywhere, connector
from llmaas.settings import Secret

_TIMEOUT_S = 20.0
_AT_ONCE = 2


class Mailer:
    """`url`: `smtp://` (with STARTTLS where the server offers it) or `smtps://`, with user and password in it; "" sends nothing."""

    def __init__(self, url: Secret, sender: str, names: HostNames | None = None) -> None:
        self._url = url
        self._connect = connector(anywhere, "smtp_url", names or HostNames())
        self._sender = sender
        self._domain = parseaddr(sender)[1].rpartition("@")[2] or "localhost"
        self._threads = ThreadPoolExecutor(_AT_ONCE, "mail")

    async def send(self, to: str, subject: str, text: str, *, message_id: str) -> None:
        """A repeated message has the same id. Raises NotDelivered."""
        if not self._url:
            raise NotDelivered("No mail server is set: smtp_url and smtp_from.")
        message = EmailMessage()
        try:
            message["From"], message["To"], message["Subject"] = self._sender, to, subject
        except ValueError as error:
            raise NotDelivered(f"It is no e-mail address: {error}") from error
        message["Date"] = formatdate()
        message["Message-ID"] = f"<{message_id}@{self._domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text)
        await asyncio.get_running_loop().run_in_executor(self._threads, self._hand_over, message)

    def _hand_over(self, message: EmailMessage) -> None:
        parts = urlsplit(self._url.reveal())
        host, secure = parts.hostname or "", parts.scheme == "smtps"
        trust = ssl.create_default_context()
        try:
            with _Smtp(
                self._connect, host, parts.port or (465 if secure else 587), trust if secure else None
            ) as server:
                server.ehlo()
                if not secure and server.has_extn("starttls"):
                    server.starttls(context=trust)
                    server.ehlo()
                if parts.username:
                    server.login(unquote(parts.username), unquote(parts.password or ""))
                server.send_message(message)
        except (OSError, smtplib.SMTPException, MessageError, UnicodeError) as error:
            raise NotDelivered(f"The mail server {host} did not take it: {_reason(error)}") from error


class _Smtp(smtplib.SMTP):
    """A session whose connection is made here; with `tls` it is secured before a word is said."""

    def __init__(self, connect: Callable[..., socket.socket], host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._connect = connect
        self._tls = tls
        # Told, or it would ask a name server what this machine is called.
        name = socket.gethostname()
        super().__init__(host, port, name if "." in name else "[127.0.0.1]", timeout=_TIMEOUT_S)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = self._connect((host, port), timeout)
        return plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname=host)


def _reason(error: Exception) -> str:
    match error:
        case smtplib.SMTPResponseException():
            return f"{error.smtp_code} {_text(error.smtp_error)}"
        case smtplib.SMTPRecipientsRefused():
            return "; ".join(f"{code} {_text(said)}" for code, said in error.recipients.values())
        case TimeoutError():
            return f"no answer within {_TIMEOUT_S:g} s"
    return str(error) or type(error).__name__


def _text(said: bytes | str) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else said
