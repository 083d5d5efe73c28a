"""Backup and restore of a whole database in one form for SQLite and PostgreSQL, so that one can become the other.

A gzip file of JSON lines: a heading, then for each table its columns, its rows and its end, then the end of the file.
Each end says the digest of all lines before it. It is read in one snapshot and restored in one transaction: a file that
is damaged, cut short or of another schema changes nothing.
"""

from __future__ import annotations

import base64
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.errors import Conflict, InvalidRequest
from llmaas.storage.database import SCHEMA, Database
from llmaas.storage.tables import metadata

_FORMAT = 1
_BATCH_ROWS = 500
_LEVEL = 3
_OF_RUNNING_PROCESSES = frozenset({"duties", "workers"})
_NOT_EMPTY = "The database is not empty; restore into a new data directory or an empty PostgreSQL database."
_OTHER_KEY = (
    "The master key here is not that of the backup; put the backup's in its place, or take a new data directory."
)
_DAMAGED = "The backup is damaged: {}."


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """`master_key_id` names the master key that opens what the database holds sealed, without telling it."""

    schema: str
    made_ms: int
    rows: dict[str, int]
    master_key_id: str
    master_key: bytes | None


def master_key_id(master_key: bytes) -> str:
    return blake2b(b"backup", key=master_key, digest_size=8).hexdigest()


async def write_backup(
    database: Database, path: Path, *, made_ms: int, master_key: bytes, with_master_key: bool
) -> BackupSummary:
    """Write all tables as they are at one moment; nobody has to wait for it. Raises Conflict when the file is there.

    The file appears under its name when it is whole; it has mode 0600.
    """
    if path.exists():  # noqa: ASYNC240 - a command's own process
        raise Conflict(f"{path} is there already.", param="file")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    heading = {
        "llmaas": "backup",
        "format": _FORMAT,
        "schema": SCHEMA,
        "made_ms": made_ms,
        "master_key_id": master_key_id(master_key),
        "master_key": base64.b64encode(master_key).decode() if with_master_key else None,
    }
    try:
        with _new_file(draft) as raw, gzip.GzipFile("", "wb", _LEVEL, raw) as packed:
            written = _Writer(packed)
            written.line(heading)
            rows = await _write_tables(database, written)
            written.end({"end": "backup", "tables": len(rows)})
            packed.close()
            os.fsync(raw.fileno())
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return BackupSummary(SCHEMA, made_ms, rows, master_key_id(master_key), master_key if with_master_key else None)


async def restore_backup(database: Database, path: Path, *, master_key: bytes | None = None) -> BackupSummary:
    """Fill an empty database whose schema is there. Raises Conflict when it is not empty, InvalidRequest for a bad file.

    `master_key`: the one that is here already; Conflict when it is not that of the backup.
    """
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as packed:
            lines = _Lines(packed)
            summary = _heading(lines.take())
            if master_key is not None and master_key_id(master_key) != summary.master_key_id:
                raise Conflict(_OTHER_KEY)
            async with database.begin(long=True) as connection:
                await _require_empty(connection)
                await _read_tables(connection, lines, summary.rows)
                await _settle_in(connection)
                for name, count in summary.rows.items():
                    there = (await connection.execute(_count(metadata.tables[name]))).scalar_one()
                    if there != count:
                        raise InvalidRequest(_DAMAGED.format(f"{name} has {there} rows, not {count}"))
    except FileNotFoundError as error:
        raise InvalidRequest(f"There is no file {path}.", param="file") from error
    except (EOFError, gzip.BadGzipFile, msgspec.DecodeError, zlib.error) as error:
        raise InvalidRequest(_DAMAGED.format(str(error) or "it ends too early")) from error
    except sa.exc.IntegrityError as error:
        raise InvalidRequest(_DAMAGED.format(f"its rows contradict each other ({error.orig})")) from error
    return summary


def store_master_key(path: Path, master_key: bytes) -> None:
    """Where there is none yet; mode 0600."""
    with _new_file(path) as file:
        file.write(master_key)
        os.fsync(file.fileno())


class _Writer:
    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._digest = blake2b(digest_size=16)

    def line(self, value: object) -> None:
        text = msgspec.json.encode(value) + b"\n"
        self._digest.update(text)
        self._file.write(text)

    def end(self, values: dict[str, Any]) -> None:
        self.line({**values, "digest": self._digest.hexdigest()})


class _Lines:
    """Reads lines and checks each end against what came before it."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._digest = blake2b(digest_size=16)

    def take(self) -> Any:
        text = self._file.readline()
        if not text.endswith(b"\n"):
            raise InvalidRequest(_DAMAGED.format("it ends too early"))
        value = msgspec.json.decode(text)
        if isinstance(value, dict) and "digest" in value and value["digest"] != self._digest.hexdigest():
            raise InvalidRequest(_DAMAGED.format("a checksum does not fit"))
        self._digest.update(text)
        return value


def _new_file(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _kept() -> list[sa.Table]:
    """In an order in which each row finds those that it refers to."""
    return [table for table in metadata.sorted_tables if table.name not in _OF_RUNNING_PROCESSES]


def _names(table: sa.Table) -> list[str]:
    return [_text(column.name) for column in table.columns]


def _text(name: str) -> str:
    """SQLAlchemy's own kind of text is no JSON."""
    return name.encode().decode()


async def _write_tables(database: Database, written: _Writer) -> dict[str, int]:
    rows: dict[str, int] = {}
    async with database.connect(long=True) as connection:
        for table in _kept():
            name = _text(table.name)
            written.line({"table": name, "columns": _names(table)})
            count = 0
            result = await connection.stream(sa.select(table), execution_options={"yield_per": _BATCH_ROWS})
            async for partition in result.partitions():
                for row in partition:
                    written.line(list(row))
                count += len(partition)
            written.end({"end": name, "rows": count})
            rows[name] = count
    return rows


def _heading(heading: Any) -> BackupSummary:
    if not isinstance(heading, dict) or heading.get("llmaas") != "backup":
        raise InvalidRequest("The file is no backup of llmaas.", param="file")
    if heading["format"] != _FORMAT or heading["schema"] != SCHEMA:
        raise InvalidRequest(
            f"The backup has schema {heading['schema']}, this version needs {SCHEMA}:"
            " restore it with the version that wrote it, then run `llmaas migrate`.",
            param="file",
        )
    key = heading["master_key"]
    return BackupSummary(
        heading["schema"], heading["made_ms"], {}, heading["master_key_id"], base64.b64decode(key) if key else None
    )


async def _require_empty(connection: AsyncConnection) -> None:
    for table in _kept():
        if table.name == "revisions":  # made with the schema
            await connection.execute(sa.delete(table))
        elif (await connection.execute(sa.select(table.primary_key.columns[0]).limit(1))).first() is not None:
            raise Conflict(_NOT_EMPTY)


async def _read_tables(connection: AsyncConnection, lines: _Lines, rows: dict[str, int]) -> None:
    tables = {table.name: table for table in _kept()}
    while True:
        line = lines.take()
        if not isinstance(line, dict):
            raise InvalidRequest(_DAMAGED.format("a row is where none can be"))
        if line.get("end") == "backup":
            if line["tables"] != len(rows) or len(rows) != len(tables):
                raise InvalidRequest(_DAMAGED.format("a table is missing"))
            return
        table = tables.get(line.get("table", ""))
        if table is None or table.name in rows or line.get("columns") != _names(table):
            raise InvalidRequest(_DAMAGED.format(f"unexpected table {line.get('table')}"))
        rows[table.name] = await _read_table(connection, table, lines)


async def _read_table(connection: AsyncConnection, table: sa.Table, lines: _Lines) -> int:
    names = _names(table)
    insert = sa.insert(_plain(table))
    repair = _Repair(table, postgres=connection.dialect.name == "postgresql")
    count = 0
    for batch in _batches(lines, table.name):
        records = [dict(zip(names, repair.row(row), strict=True)) for row in batch]
        await connection.execute(insert, records)
        count += len(batch)
    return count


def _batches(lines: _Lines, name: str) -> Iterator[list[Any]]:
    batch: list[Any] = []
    count = 0
    while isinstance(line := lines.take(), list):
        batch.append(line)
        count += 1
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
    if not isinstance(line, dict) or line.get("end") != name or line["rows"] != count:
        raise InvalidRequest(_DAMAGED.format(f"the end of {name} does not fit"))


class _Repair:
    """From what JSON holds to what the column takes. PostgreSQL's text cannot hold NUL, which SQLite's can."""

    def __init__(self, table: sa.Table, *, postgres: bool) -> None:
        self._binary = [n for n, c in enumerate(table.columns) if isinstance(c.type, sa.LargeBinary)]
        self._text = [n for n, c in enumerate(table.columns) if isinstance(c.type, sa.String) and postgres]

    def row(self, row: list[Any]) -> Sequence[Any]:
        for n in self._binary:
            row[n] = None if row[n] is None else base64.b64decode(row[n])
        for n in self._text:
            if row[n] is not None and "\0" in row[n]:
                row[n] = row[n].replace("\0", "\N{REPLACEMENT CHARACTER}")
        return row


def _plain(table: sa.Table) -> sa.Table:
    """The same for inserting: without defaults, and nothing in a JSON column stays nothing."""
    columns = [
        sa.Column(c.name, sa.JSON(none_as_null=True) if isinstance(c.type, sa.JSON) else c.type) for c in table.columns
    ]
    return sa.Table(table.name, sa.MetaData(), *columns)


async def _settle_in(connection: AsyncConnection) -> None:
    """The workers that leased money are not here, and numbers go on after the highest."""
    shares, prices = metadata.tables["budget_shares"], metadata.tables["prices"]
    await connection.execute(sa.update(shares).values(leased_nano=0))
    if connection.dialect.name == "postgresql":
        highest = sa.select(sa.func.coalesce(sa.func.max(prices.c.version), 0) + 1).scalar_subquery()
        sequence = sa.func.pg_get_serial_sequence("prices", "version")
        await connection.execute(sa.select(sa.func.setval(sequence, highest, sa.false())))


def _count(table: sa.Table) -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(table)
