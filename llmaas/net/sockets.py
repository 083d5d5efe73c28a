"""Connecting only where it is permitted: the address that a name leads to is judged, not the name."""

from __future__ import annotations

import socket
from collections.abc import Callable

from llmaas.net.names import HostNames

Permits = Callable[[str], bool]
"""Judges a numeric address before it is connected to."""


class AddressDenied(OSError):
    """A rule of ours forbids to connect there."""


def anywhere(_address: str) -> bool:
    """No rule at all, as `Permits`."""
    return True


def connector(permits: Permits, setting: str, names: HostNames) -> Callable[..., socket.socket]:
    """A way to connect to the first address of a host that is permitted and answers; `setting` is named to who may change it."""

    def connect(address: tuple[str, int], timeout: float, *_: object) -> socket.socket:
        host, port = address
        places = [str(place[0]) for *_, place in names.find_now(host, port)]
        failure: OSError = AddressDenied(0, f"its address {', '.join(places)} is denied; see {setting}")
        for place in filter(permits, places):
            try:
                return socket.create_connection((place, port), timeout)
            except OSError as error:
                failure = error
        raise failure

    return connect
