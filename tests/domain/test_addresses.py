"""Addresses: every spelling of what is denied is refused, and what inference servers have is not."""

from __future__ import annotations

import pytest

from llmaas.domain.addresses import DENIED, PRIVATE, AddressRules, Proxies, allowed, parse_network
from llmaas.domain.values import url_fault

METADATA = [
    "169.254.169.254",
    "169.254.169.254.",
    "2852039166",
    "0xa9fea9fe",
    "0xA9.0xFE.0xA9.0xFE",
    "0251.0376.0251.0376",
    "0251.254.169.254",
    "169.254.43518",
    "169.16689662",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "0:0:0:0:0:ffff:a9fe:a9fe",
    "::a9fe:a9fe",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
]
ELSEWHERE = [
    "0",
    "0.0.0.0",  # noqa: S104 - nothing listens here
    "00.0.0.0",
    "0x0",
    "::",
    "0:0::0",
    "::ffff:0.0.0.0",
    "fe80::1",
    "fe80::1%eth0",
    "FE80::1",
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "240.0.0.1",
    "ff02::1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "127.0.0.01",
    "1.2.3.4.5",
    "1.2.3.256",
    "0x",
]
FINE = [
    "127.0.0.1",
    "::1",
    "10.0.0.12",
    "172.16.5.5",
    "192.168.1.1",
    "100.64.0.1",
    "8.8.8.8",
    "fd12::5",
    "2001:db8::5",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "localhost",
    "ma02",
    "api.provider.example",
    "api.provider.example.",
    "3com.example",
    "xn--bcher-kva.example",
    "169.254.169.254.nip.example",
]


@pytest.mark.parametrize("host", METADATA + ELSEWHERE)
def test_A07_every_spelling_of_a_denied_address_is_refused(host: str) -> None:
    assert AddressRules().host_fault(host) is not None


@pytest.mark.parametrize("host", FINE)
def test_A07_addresses_of_inference_servers_are_allowed(host: str) -> None:
    assert AddressRules().host_fault(host) is None


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1%2", "0.0.0.0", "ff02::1", "", "nonsense", "10.1"],  # noqa: S104
)
def test_A07_what_a_name_leads_to_is_judged_too(address: str) -> None:
    assert not AddressRules().permits(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "192.168.0.9", "8.8.8.8", "2001:db8::1"])
def test_A07_where_machines_are_is_permitted(address: str) -> None:
    assert AddressRules().permits(address)


INSIDE = [
    "10.0.0.1",
    "192.168.0.9",
    "192.0.0.8",
    "198.18.0.1",
    "::ffff:0:127.0.0.1",
    "fec0::1",
    "fd12::5",
    "64:ff9b::a00:1",
]


@pytest.mark.parametrize("address", INSIDE)
def test_A07_owners_of_projects_reach_nothing_inside(address: str) -> None:
    assert not AddressRules([*DENIED, *PRIVATE]).permits(address)


def test_an_operator_decides() -> None:
    strict = AddressRules(["0.0.0.0/0", "::/0"], ["10.0.0.0/8", "2001:db8::/32"])
    assert [strict.permits(a) for a in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1")] == [True] * 3
    assert [strict.permits(a) for a in ("127.0.0.1", "::1", "11.0.0.1", "::ffff:11.0.0.1", "2001:db9::1")] == [
        False
    ] * 5
    assert AddressRules(allow=["169.254.10.0/24"]).permits("169.254.10.5")
    assert not AddressRules(allow=["169.254.10.0/24"]).permits("169.254.169.254")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://10.0.0.1/",
        "ftp://10.0.0.1/",
        "http:10.0.0.1",
        "//10.0.0.1/v1",
        "http://good.example@169.254.169.254/",
        "http://169.254.169.254#@good.example/",
        "http://good.example\\@169.254.169.254/",
        "http://169.254.169.254 /",
        "http://ⓔxample.com/",
        "http://１６９.254.169.254/",
        "http://169。254。169。254/",
        "http://10.0.0.1:0/",
        "http://10.0.0.1:/",
        "http://10.0.0.1/?url=x",
        "http://[::1/",
        "http:///v1",
    ],
)
def test_A07_an_address_of_another_form_is_refused(url: str) -> None:
    assert url_fault(url) is not None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.5", "10.0.0.5/32"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
    ],
)
def test_networks_have_one_form(text: str, kept: str) -> None:
    assert parse_network(text) == kept


@pytest.mark.parametrize("text", ["", "10.0.0.5/8", "10.0.0.0/33", "10.0.0.0/-1", "ten", "10.0.0/8", "fe80::1%eth0/64"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"network|bits"):
        parse_network(text)


def test_a_key_works_from_its_networks_only() -> None:
    networks = ("10.0.0.0/8", "2001:db8::/32")
    assert all(allowed(a, networks) for a in ("10.255.0.1", "::ffff:10.0.0.1", "2001:db8::7"))
    assert not any(allowed(a, networks) for a in ("11.0.0.1", "::1", "::ffff:11.0.0.1", "", "testclient", "10.0.0"))
    assert allowed("", ())
    assert allowed("anything", ())


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("192.0.2.7", "198.51.100.1", "192.0.2.7"),
        ("10.0.0.2", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.2", "127.0.0.1, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.2", "127.0.0.1, 198.51.100.1, 10.0.0.3", "198.51.100.1"),
        ("10.0.0.2", "10.0.0.4,10.0.0.3", "10.0.0.4"),
        ("10.0.0.2", "", "10.0.0.2"),
        ("10.0.0.2", "unknown", "10.0.0.2"),
        ("10.0.0.2", "198.51.100.1, unknown", "10.0.0.2"),
        ("10.0.0.2", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.2", "[2001:DB8::1]:4711", "2001:db8::1"),
        ("::ffff:10.0.0.2", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.2", "::ffff:10.0.0.3, ::ffff:198.51.100.1", "198.51.100.1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_only_proxies_are_believed_who_called(peer: str, forwarded: str, caller: str) -> None:
    assert Proxies(["10.0.0.0/8"]).caller(peer, forwarded) == caller
    assert Proxies().caller(peer, forwarded) == peer


def test_A19_a_forged_list_of_thousands_of_proxies_is_not_followed() -> None:
    judged: list[str] = []

    class Counting(Proxies):
        def include(self, address: str) -> bool:
            judged.append(address)
            return super().include(address)

    assert Counting(["10.0.0.0/8"]).caller("10.0.0.2", "10.0.0.3," * 8000 + "10.0.0.4") == "10.0.0.3"
    assert len(judged) <= 40
