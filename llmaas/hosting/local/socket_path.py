"""The address of a Unix socket has room for about a hundred bytes; a data directory's path may be longer."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmaas.errors import ConfigurationError

_MOST_BYTES = 103
"""Of macOS, without the closing zero; Linux has four more."""


@contextmanager
def openable(path: Path) -> Iterator[str]:
    """An address of that socket to bind or connect to; short ones are themselves. OSError when its folder is not there,
    ConfigurationError where long ones don't work.
    """
    if len(os.fsencode(path)) <= _MOST_BYTES:
        yield str(path)
        return
    if sys.platform != "linux":
        problem = (
            f"data_dir: {path} is longer than the {_MOST_BYTES} bytes that a socket may have; choose a shorter one"
        )
        raise ConfigurationError([problem])
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
