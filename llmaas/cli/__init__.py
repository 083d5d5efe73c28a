"""The `llmaas` command: one module for each noun; `program` puts them together."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

INTERRUPTED = 130
_GC_THRESHOLD = 50_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code. Files that it makes are its owner's alone."""
    os.umask(0o077)
    # By default the search for garbage takes a fifth of a start, which makes hardly any; requests leave few cycles behind, too.
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
    try:
        from llmaas.cli.program import run

        code = run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)
