"""strace as a fault injector: it makes a system call of the gateway fail, or kills the gateway at it."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence

import pytest


@functools.cache
def _works() -> bool:
    program = shutil.which("strace")
    return (
        program is not None and subprocess.run([program, "-qq", "-o", "/dev/null", "true"], check=False).returncode == 0
    )


def inject(*faults: str) -> Sequence[str]:
    """A command's prefix: `inject("fdatasync:error=EIO:when=1")`. Calls are counted by each thread for itself. A loud
    skip where there is no strace, or it may not trace."""
    if not _works():
        pytest.skip("strace is missing or may not trace: apt-get install strace, and allow ptrace")
    calls = sorted({fault.partition(":")[0] for fault in faults})
    options = [option for fault in faults for option in ("-e", f"inject={fault}")]
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={','.join(calls)}", *options]
