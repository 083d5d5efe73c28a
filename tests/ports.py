"""Ports for the servers of tests."""

from __future__ import annotations

import socket
from random import SystemRandom

_BELOW_CONNECTIONS = range(20_000, 32_000)
"""The kernel gives ports from 32,768 on to connections, and would give one that a server is about to take."""
_random = SystemRandom()  # tests are seeded, and all processes of them alike


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    while True:
        port = _random.choice(_BELOW_CONNECTIONS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
