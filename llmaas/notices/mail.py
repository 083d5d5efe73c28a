"""E-mail through SMTP, in plain text."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from concurrent.futures import ThreadPoolExecutor
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import unquote, urlsplit

from llmaas.domain.alerts import NotDelivered
from llmaas.settings import Secret

_TIMEOUT_S = 20.0
_AT_ONCE = 2


class Mailer:
    """`url`: `smtp://` (with STARTTLS where the server offers it) or `smtps://`, with user and password in it; "" sends nothing."""

    def __init__(self, url: Secret, sender: str) -> None:
        self._url = url
        self._sender = sender
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
        message["Message-ID"] = f"<{message_id}@{make_msgid().strip('<>').rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text)
        await asyncio.get_running_loop().run_in_executor(self._threads, self._hand_over, message)

    def _hand_over(self, message: EmailMessage) -> None:
        parts = urlsplit(self._url.reveal())
        host, secure = parts.hostname or "", parts.scheme == "smtps"
        trust = ssl.create_default_context()
        try:
            with (
                smtplib.SMTP_SSL(host, parts.port or 465, timeout=_TIMEOUT_S, context=trust)
                if secure
                else smtplib.SMTP(host, parts.port or 587, timeout=_TIMEOUT_S)
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
