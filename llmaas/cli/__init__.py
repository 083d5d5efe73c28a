"""The `llmaas` command: one module for each noun; `program` puts them together."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code. Files that it makes are its owner's alone."""
    os.umask(0o077)
    try:
        from llmaas.cli.program import run

        code = run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    sys.exit(code)
