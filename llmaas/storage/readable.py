"""Rows that are read one by one, so that a spoiled one costs only itself: it is none, with an error in the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
import structlog

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.storage")
T = TypeVar("T")


def readable(kind: type[T], row: Mapping[Any, Any]) -> T | None:
    """None for a row whose values are not of the types that they have to be."""
    try:
        return msgspec.convert({str(name): value for name, value in row.items()}, kind, builtin_types=(bytes,))
    except (ValueError, TypeError) as error:
        _log.error("row_skipped", noun=kind.__name__.lower(), id=str(row.get("id")), reason=str(error))
        return None


def all_readable(kind: type[T], rows: Iterable[Mapping[Any, Any]]) -> list[T]:
    return [found for row in rows if (found := readable(kind, row)) is not None]
