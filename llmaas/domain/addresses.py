"""Network addresses: from where a key may be used, and where an inference server may be. Pure; nothing is looked up here.

Inference servers are mostly private machines, so private and loopback addresses are allowed. Refused are ranges where no
inference server is and a cloud keeps its credentials: `DENIED`. What is checked is the address that a name led to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

DENIED = (
    "0.0.0.0/8",  # unspecified; many systems take it for loopback
    "100.100.100.200/32",  # metadata of a cloud
    "168.63.129.16/32",  # metadata of a cloud
    "169.254.0.0/16",  # link-local, with the metadata of most clouds
    "192.0.0.192/32",  # metadata of a cloud
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, with broadcast
    "::/128",
    "fd00:ec2::254/128",  # metadata of a cloud
    "fe80::/10",  # link-local
    "ff00::/8",  # multicast
)
PRIVATE = (
    "10.0.0.0/8",
    "100.64.0.0/10",  # carrier-grade NAT
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.0.0/24",  # protocol assignments
    "192.168.0.0/16",
    "198.18.0.0/15",  # benchmarks of networks
    "::1/128",
    "fc00::/7",
    "fec0::/10",  # site-local, as it was once
)
"""Where inside of an organisation is: denied besides to what owners of projects, who are no operators, may have us send to."""
_NAT64 = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"), ip_network("::ffff:0:0:0/96"))
"""Networks whose addresses end in an IPv4 one (RFC 6052, 8215, 7915)."""
_MOST_HOPS = 32
"""Proxies that a request may come through: each costs a look at its address, and callers may write as many as they like."""
_COMPATIBLE = ip_network("::/96")
_SITE_BITS = 64
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+", re.IGNORECASE)


def parse_network(text: str) -> str:
    """A network or address in its usual form, `10.0.0.0/8`. ValueError says what is wrong."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("is no network such as 10.0.0.0/8 or 2001:db8::/32") from None
    if "/" in text and str(ip_address(text.partition("/")[0])) != str(network.network_address):
        raise ValueError(f"has bits beyond its prefix; write {network}")
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return str(ip_network((mapped, network.prefixlen - 96)))
    return str(network)


def allowed(address: str, networks: Sequence[str]) -> bool:
    """Whether a caller's address is within one of these networks; without networks every address is."""
    if not networks:
        return True
    caller = _parse(address)
    return caller is not None and _within(caller, map(ip_network, networks))


def site_of(address: str) -> str:
    """Whose address it is, as far as an address tells: itself, and of IPv6 its /64, for any host there has 2**64 addresses."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _SITE_BITS), strict=False))
    return address if parsed is None else str(parsed)


class Proxies:
    """Reverse proxies in front of the service, whose word on who called them is taken."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        """Networks as `parse_network` gives them. Raises ValueError."""
        self._networks = [ip_network(text) for text in networks]

    def include(self, address: str) -> bool:
        """Whether it is the address of one of them."""
        if not self._networks:
            return False
        parsed = _parse(address)
        return parsed is not None and _within(parsed, self._networks)

    def caller(self, peer: str, forwarded: str) -> str:
        """Who called, by the `x-forwarded-for` that came from `peer`: its last address that is none of the proxies. What
        stands before that one anybody may have written.
        """
        address = peer
        for hop in reversed(forwarded.rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
            if not self.include(address):
                break
            found = _parse(_without_port(hop.strip()))
            if found is None:
                break
            address = str(found)
        return address


def _without_port(hop: str) -> str:
    """Some proxies add it: `192.0.2.1:4711`, `[2001:db8::1]:4711`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


class AddressRules:
    """Which addresses connections to inference servers may go to. `allow` wins over `deny`; what is in neither is allowed."""

    def __init__(self, deny: Iterable[str] = DENIED, allow: Iterable[str] = ()) -> None:
        """Networks as `parse_network` gives them. Raises ValueError."""
        self._deny = [ip_network(text) for text in deny]
        self._allow = [ip_network(text) for text in allow]

    def permits(self, address: str) -> bool:
        """`address`: what a look-up gave. An IPv6 address that stands for an IPv4 one is judged as both."""
        meant = _parse(address)
        if meant is None:
            return False
        forms = [meant, *_embedded(meant)]
        if any(_within(form, self._allow) for form in forms):
            return True
        return not any(_within(form, self._deny) for form in forms)

    def host_fault(self, host: str) -> str | None:
        """Why the host of an address that an operator writes is refused, or None. A name is judged when it is looked up."""
        plain = host.lower().removesuffix(".").partition("%")[0]
        literal = _parse(plain)
        if literal is None:
            return "must write a numeric address in its usual form, such as 10.0.0.12" if _numeric(plain) else None
        return None if self.permits(plain) else f"leads to {literal}, which is denied; see upstream_allow"


def _parse(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _embedded(address: Address) -> Iterable[Address]:
    """IPv4 addresses that packets to this one may end at."""
    if isinstance(address, IPv4Address):
        return
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if any(address in network for network in _NAT64) or (address in _COMPATIBLE and int(address) > 1):
        yield IPv4Address(int(address) & 0xFFFF_FFFF)


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _numeric(host: str) -> bool:
    """Whether resolvers take it for a number: decimal, octal or hexadecimal, whole or in parts."""
    return _NUMBER.fullmatch(host.rpartition(".")[2]) is not None
