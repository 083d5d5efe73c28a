"""Alerts on their way: to a real mail server and a real receiver of webhooks, later again when they do not arrive."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from llmaas.clock import ManualClock
from llmaas.domain.addresses import DENIED, PRIVATE, AddressRules
from llmaas.domain.alerts import Channel, ChannelKind, NotDelivered, channel_fault
from llmaas.domain.audit import SYSTEM
from llmaas.domain.credit import CreditEntry, CreditKind
from llmaas.domain.prices import NANO
from llmaas.domain.projects import Project
from llmaas.ids import IdSource
from llmaas.notices.courier import Courier
from llmaas.notices.mail import Mailer
from llmaas.notices.webhooks import Webhooks
from llmaas.settings import Secret
from llmaas.storage.alerts import SqlAlertStore
from llmaas.storage.credit import SqlCreditStore
from llmaas.storage.database import Database
from llmaas.storage.projects import SqlProjectStore
from tests.fakes.smtp import FakeSmtp
from tests.fakes.webhook import FakeReceiver
from tests.schema import write_schema

NOW_MS = 1_793_620_800_000
PEPPER = b"p" * 32
ids = IdSource()


@dataclass
class Post:
    """A project that is poor, a mail server, a receiver, and what takes alerts from one to the others."""

    alerts: SqlAlertStore
    credit: SqlCreditStore
    courier: Courier
    webhooks: Webhooks
    clock: ManualClock
    mail: FakeSmtp
    receiver: FakeReceiver

    async def channel(self, kind: ChannelKind, target: str) -> Channel:
        channel = Channel(f"channel-{ids.uuid7()}", "lab", kind, target, self.clock.now_ms())
        await self.alerts.add_channel(channel, by=SYSTEM)
        return channel

    async def watch(self) -> list[str]:
        return await self.alerts.watch_credit(ids, self.clock.now_ms())

    async def deliver(self) -> int:
        return await self.courier.deliver(self.alerts)

    async def pay(self) -> None:
        entry = CreditEntry("c1", "lab", NOW_MS, 100 * NANO, CreditKind.TOP_UP, "", "root")
        await self.credit.add(entry, by=SYSTEM)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    write_schema(tmp_path / "llmaas.db")
    opened = Database(tmp_path / "llmaas.db")
    yield opened
    await opened.close()


@pytest.fixture
async def post(database: Database) -> AsyncIterator[Post]:
    await SqlProjectStore(database).add(Project("lab", "The lab", NOW_MS, low_credit_nano=5 * NANO))
    async with AsyncExitStack() as stack:
        mail = await stack.enter_async_context(FakeSmtp())
        receiver = await stack.enter_async_context(FakeReceiver())
        clock = ManualClock(NOW_MS)
        webhooks = Webhooks(AddressRules(DENIED).permits, PEPPER)
        mailer = Mailer(Secret(f"smtp://ana:p%40ss@127.0.0.1:{mail.port}"), "llmaas <llmaas@example.org>")
        courier = Courier(mailer, webhooks, clock, console_url="https://llm.example.org", currency="EUR")
        yield Post(SqlAlertStore(database), SqlCreditStore(database), courier, webhooks, clock, mail, receiver)


async def test_a_mail_tells_what_holds_and_that_it_is_over(post: Post) -> None:
    await post.channel(ChannelKind.EMAIL, "ana@example.org")
    assert await post.watch() == ["lab"]
    assert await post.deliver() == 1
    assert await post.deliver() == 0
    await post.pay()
    await post.watch()
    assert await post.deliver() == 1
    first, second = post.mail.messages
    assert (first["to"], first["from"]) == ("ana@example.org", "llmaas <llmaas@example.org>")
    assert first["subject"] == "[llmaas] The lab: credit is low"
    text = first.get_content()
    assert "The credit fell below 5.00 EUR: 0.00 EUR is left." in text
    assert "https://llm.example.org/projects/lab/billing" in text
    assert second["subject"].startswith("[llmaas] Resolved: The lab")
    assert first["message-id"] != second["message-id"]
    assert base64.b64decode(post.mail.users[0]) == b"\0ana\0p@ss"
    (channel,) = await post.alerts.channels("lab")
    assert (channel.told_ms, channel.fault) == (NOW_MS, None)


async def test_a_webhook_is_signed_as_its_receiver_checks_it(post: Post) -> None:
    channel = await post.channel(ChannelKind.WEBHOOK, post.receiver.url)
    await post.watch()
    assert await post.deliver() == 1
    ((headers, body),) = post.receiver.calls
    assert headers[":request"] == "POST /hooks/llmaas?to=me HTTP/1.1"
    key = base64.b64decode(post.webhooks.secret(channel.id).removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert int(headers["webhook-timestamp"]) == NOW_MS // 1000
    document = json.loads(body)
    assert document["type"] == "alert.raised"
    assert document["data"]["kind"] == "low_credit"
    assert document["data"]["detail"] == {"balance_nano": 0, "threshold_nano": 5 * NANO}


async def test_what_does_not_arrive_is_tried_again_later_under_the_same_id(post: Post) -> None:
    post.receiver.statuses += [500, 302]
    await post.channel(ChannelKind.WEBHOOK, post.receiver.url)
    await post.watch()
    assert await post.deliver() == 0
    assert "answered 500" in ((await post.alerts.channels("lab"))[0].fault or "")
    assert await post.deliver() == 0
    assert len(post.receiver.calls) == 1, "not before its time"
    post.clock.advance(60)
    assert await post.deliver() == 0
    assert len(post.receiver.calls) == 2, "a redirect is not followed"
    post.clock.advance(300)
    assert await post.deliver() == 1
    assert len({headers["webhook-id"] for headers, _ in post.receiver.calls}) == 1
    assert (await post.alerts.channels("lab"))[0].fault is None


async def test_it_is_given_up_in_the_end(post: Post) -> None:
    post.mail.refuses = "550 no such user"
    await post.channel(ChannelKind.EMAIL, "nobody@example.org")
    await post.watch()
    for _ in range(12):
        await post.deliver()
        post.clock.advance(90_000)
    assert await post.alerts.due(post.clock.now_ms(), limit=10) == []
    (channel,) = await post.alerts.channels("lab")
    assert channel.fault == "The mail server 127.0.0.1 did not take it: 550 no such user"


async def test_one_that_fails_keeps_nobody_else_waiting(post: Post) -> None:
    await post.channel(ChannelKind.WEBHOOK, "http://127.0.0.1:9/closed")
    await post.channel(ChannelKind.EMAIL, "ana@example.org")
    await post.watch()
    assert await post.deliver() == 1
    assert len(post.mail.messages) == 1


async def test_a_process_that_dies_after_sending_sends_again(post: Post) -> None:
    """At least once: between the two nothing is noted."""
    await post.channel(ChannelKind.WEBHOOK, post.receiver.url)
    await post.watch()
    (delivery,) = await post.alerts.due(NOW_MS, limit=10)
    await post.courier.tell(delivery)
    assert await post.deliver() == 1
    assert len({headers["webhook-id"] for headers, _ in post.receiver.calls}) == 1
    assert len(post.receiver.calls) == 2


async def test_who_answers_a_byte_at_a_time_keeps_nobody(post: Post) -> None:
    ended = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx: ")
        heard = b"?"
        while heard:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    heard = await reader.read(65536)
            writer.write(b"x")
        ended.set()
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        webhooks = Webhooks(AddressRules().permits, PEPPER, timeout_s=0.3)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(NotDelivered, match="did not answer within"):
            await webhooks.send("c", url, b"{}", message_id="m", at_s=1)
        async with asyncio.timeout(5):
            await ended.wait()


async def test_a_channel_that_was_removed_hears_nothing_more(post: Post) -> None:
    channel = await post.channel(ChannelKind.EMAIL, "ana@example.org")
    await post.watch()
    await post.alerts.remove_channel("lab", channel.id, by=SYSTEM)
    assert await post.deliver() == 0


async def test_without_a_mail_server_it_is_said(post: Post) -> None:
    channel = await post.channel(ChannelKind.EMAIL, "ana@example.org")
    await post.watch()
    courier = Courier(Mailer(Secret(""), ""), post.webhooks, post.clock, console_url="", currency="EUR")
    await courier.deliver(post.alerts)
    assert "smtp_url" in ((await post.alerts.channels("lab"))[0].fault or "")
    assert channel.kind is ChannelKind.EMAIL


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://127.0.0.1:{port}/x",
        "http://localhost:{port}/x",
        "http://[::1]:{port}/x",
        "http://2130706433:{port}/x",
        "http://10.1.2.3/x",
        "http://no-such-name.invalid/x",
    ],
)
async def test_A07_webhooks_go_to_no_private_address(post: Post, url: str) -> None:
    """And who sets them up learns by them neither which names there are nor where they lead."""
    webhooks = Webhooks(AddressRules([*DENIED, *PRIVATE]).permits, PEPPER)
    target = url.format(port=post.receiver.port)
    with pytest.raises(NotDelivered) as refused:
        await webhooks.send("c", target, b"{}", message_id="m", at_s=1)
    assert str(refused.value) == (
        f"{urlsplit(target).hostname} leads to no address that webhooks may go to. An operator can allow one by webhook_allow."
    )
    assert post.receiver.calls == []


async def test_A03_a_name_makes_no_header(database: Database, post: Post) -> None:
    projects = SqlProjectStore(database)
    await projects.add(Project("evil", "x\r\nBcc: all@example.org", NOW_MS, low_credit_nano=NANO))
    channel = Channel("channel-evil", "evil", ChannelKind.EMAIL, "ana@example.org", NOW_MS)
    await post.alerts.add_channel(channel, by=SYSTEM)
    await post.watch()
    assert await post.deliver() == 1
    assert post.mail.messages[0]["bcc"] is None
    assert post.mail.messages[0]["subject"] == "[llmaas] x Bcc: all@example.org: credit is low"


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (ChannelKind.EMAIL, "ana"),
        (ChannelKind.EMAIL, "ana@example.org\nBcc: x@example.org"),
        (ChannelKind.WEBHOOK, "ftp://example.org"),
        (ChannelKind.WEBHOOK, "https://"),
        (ChannelKind.WEBHOOK, "https://ana:secret@example.org/"),
        (ChannelKind.WEBHOOK, "https://example.org/a b"),
        (ChannelKind.WEBHOOK, "https://example.org:99999/"),
        (ChannelKind.WEBHOOK, "https://example.org/\r\nx: y"),
    ],
)
def test_what_is_no_place_is_refused(kind: ChannelKind, target: str) -> None:
    assert channel_fault(kind, target) is not None


@pytest.mark.parametrize(
    ("kind", "target"),
    [(ChannelKind.EMAIL, "ana@example.org"), (ChannelKind.WEBHOOK, "https://example.org:8443/hooks?key=1")],
)
def test_places(kind: ChannelKind, target: str) -> None:
    assert channel_fault(kind, target) is None
