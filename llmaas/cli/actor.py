"""Who runs a command, for the audit log."""

from __future__ import annotations

import os
import pwd

from llmaas.domain.audit import Actor


def operator() -> Actor:
    """The user of the operating system whose process this is, by name, else by number."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return Actor("cli", name)
