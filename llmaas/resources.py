"""What the operating system lets this process have: file descriptors and memory."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

_MOST_FILES = 1_048_576
_MOST_CONNECTIONS = 10_000
_LEAST_CONNECTIONS = 4
_OPEN_FILES = Path("/proc/self/fd")
_USUALLY_OPEN = 64
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def raise_file_limit() -> int:
    """As many file descriptors as we may have without asking anybody; gives their number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return _MOST_FILES if soft == resource.RLIM_INFINITY else soft


def room_for_connections(file_limit: int) -> int:
    """How many connections of callers there is room for: half of the descriptors that are free when nobody calls yet. Each
    caller may need another one to an engine, and the ledger, the database and the console need some as well.
    """
    used = len(list(_OPEN_FILES.iterdir())) if _OPEN_FILES.is_dir() else _USUALLY_OPEN
    return max(_LEAST_CONNECTIONS, min((file_limit - used) // 2, _MOST_CONNECTIONS))


def memory_bytes() -> int:
    """What this process may take at most: of the machine, of its control group, of its own limit."""
    bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            bounds.append(soft)
    with contextlib.suppress(OSError, ValueError):  # there is none, or one without a limit
        bounds.append(int(_CGROUP.read_text()))
    return min(bounds)
