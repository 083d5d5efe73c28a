"""Changing the master key: everything opens afterwards, API keys go on, and a rotation that broke off loses nothing."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmaas.domain.audit import Actor
from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Provider, ProviderKind
from llmaas.domain.users import User
from llmaas.errors import ConfigurationError, Unavailable
from llmaas.storage.audit import SqlAuditLog
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.database import Database
from llmaas.storage.rotation import check_master_key, read_pepper, rotate_key_file, seal_anew
from llmaas.storage.secrets import (
    SecretBox,
    make_next_key,
    next_path,
    pepper_of,
    previous_path,
    promote_next_key,
    read_or_make_master_key,
)
from llmaas.storage.tables import audit, providers, users
from llmaas.storage.users import SqlUserStore

ROOT = Actor("cli", "root")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    read_or_make_master_key(tmp_path / "keys" / "master.key")
    return tmp_path / "keys" / "master.key"


def box_of(path: Path) -> SecretBox:
    return SecretBox(path.read_bytes(), path)


@pytest.fixture
async def filled(database: Database, path: Path) -> Database:
    """Two providers' credentials and a second factor."""
    box, catalogue = box_of(path), SqlCatalogueStore(database)
    fleet = Fleet(providers=tuple(Provider(name, ProviderKind.OPENAI) for name in ("a", "b")))
    await catalogue.apply(fleet, now_ms=1, prune=False)
    for name in ("a", "b"):
        await catalogue.set_secret(name, box.seal(name, f"sk-{name}"))
    await SqlUserStore(database).add(User("u1", "u1@x.example", "hash", False, False, 1), by=ROOT)
    async with database.begin() as connection:
        await connection.execute(sa.update(users).values(totp_secret=box.seal("totp:u1", "TOTP")))
    return database


async def opened(database: Database, box: SecretBox) -> list[str]:
    secrets = await SqlCatalogueStore(database).sealed_secrets()
    async with database.connect() as connection:
        totp = await connection.scalar(sa.select(users.c.totp_secret))
    assert totp is not None
    return [*(box.open(name, secrets[name]) for name in ("a", "b")), box.open("totp:u1", totp)]


ALL = ["sk-a", "sk-b", "TOTP"]


async def rotate(database: Database, path: Path, pepper: bytes) -> int:
    return (await rotate_key_file(database, box_of(path), path, pepper=pepper, by=ROOT)).sealed_anew


async def test_all_is_sealed_anew_and_the_pepper_stays(filled: Database, path: Path) -> None:
    first = path.read_bytes()
    running, pepper = box_of(path), pepper_of(first)
    assert await check_master_key(filled, running) is None
    assert await rotate(filled, path, pepper) == 3
    assert path.read_bytes() != first
    assert previous_path(path).read_bytes() == first
    assert not next_path(path).exists()
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert await opened(filled, box_of(path)) == ALL
    assert await check_master_key(filled, box_of(path)) == pepper
    assert await opened(filled, running) == ALL, "a running process follows"
    with pytest.raises(ValueError, match="does not open"):
        await opened(filled, SecretBox(first))
    previous_path(path).unlink()
    assert await rotate(filled, path, pepper) == 3
    assert await opened(filled, running) == ALL
    assert await check_master_key(filled, running) == pepper
    assert (await SqlAuditLog(filled).verify()).faults == ()


async def test_what_a_running_process_seals_later_opens_for_a_new_one(filled: Database, path: Path) -> None:
    running = box_of(path)
    await rotate(filled, path, pepper_of(path.read_bytes()))
    assert SecretBox(path.read_bytes()).open("a", running.seal("a", "later")) == "later"


async def test_a_rotation_that_broke_off_before_its_transaction_is_begun_again(filled: Database, path: Path) -> None:
    pepper = pepper_of(path.read_bytes())
    make_next_key(path)
    assert await opened(filled, box_of(path)) == ALL
    assert await rotate(filled, path, pepper) == 3
    assert await opened(filled, SecretBox(path.read_bytes())) == ALL


async def test_a_rotation_that_broke_off_after_its_transaction_loses_nothing(filled: Database, path: Path) -> None:
    pepper = pepper_of(path.read_bytes())
    await seal_anew(filled, box_of(path), make_next_key(path), pepper=pepper, by=ROOT)
    assert await opened(filled, box_of(path)) == ALL
    assert await check_master_key(filled, box_of(path)) == pepper
    assert await rotate(filled, path, pepper) == 3
    assert await opened(filled, SecretBox(path.read_bytes())) == ALL


async def test_a_failure_within_changes_nothing(filled: Database, path: Path) -> None:
    first = path.read_bytes()
    async with filled.begin() as connection:
        await connection.execute(sa.schema.DropTable(audit))
    with pytest.raises(Unavailable):
        await rotate(filled, path, pepper_of(first))
    assert await opened(filled, SecretBox(first)) == ALL
    assert await check_master_key(filled, box_of(path)) is None


async def test_A14_a_moved_ciphertext_opens_for_nobody_and_the_others_go_on(filled: Database, path: Path) -> None:
    async with filled.begin() as connection:
        moved = sa.select(providers.c.secret).where(providers.c.id == "a").scalar_subquery()
        await connection.execute(sa.update(providers).where(providers.c.id == "b").values(secret=moved))
    box = box_of(path)
    secrets = await SqlCatalogueStore(filled).sealed_secrets()
    assert box.open("a", secrets["a"]) == "sk-a"
    with pytest.raises(ValueError, match="`b` does not open"):
        box.open("b", secrets["b"])
    done = await rotate_key_file(filled, box, path, pepper=pepper_of(path.read_bytes()), by=ROOT)
    assert (done.sealed_anew, done.unreadable) == (2, ("b",))
    after = await SqlCatalogueStore(filled).sealed_secrets()
    assert after["b"] == secrets["b"]
    with pytest.raises(ValueError, match="`b` does not open"):
        box_of(path).open("b", after["b"])


async def test_A14_a_foreign_master_key_is_refused(filled: Database, path: Path) -> None:
    await rotate(filled, path, pepper_of(path.read_bytes()))
    with pytest.raises(ConfigurationError, match="master_key"):
        await check_master_key(filled, SecretBox(b"x" * 32))


async def test_F23_the_first_master_key_is_the_one_of_the_database(database: Database, path: Path) -> None:
    """Of two hosts that come with a key each one decides, and the other is refused."""
    first, other = path.read_bytes(), b"x" * 32
    assert await read_pepper(database, SecretBox(first), pepper_of(first)) == pepper_of(first)
    with pytest.raises(ConfigurationError, match="not the one of this database"):
        await read_pepper(database, SecretBox(other), pepper_of(other))
    assert await read_pepper(database, SecretBox(first), pepper_of(first)) == pepper_of(first)


async def test_F23_of_two_first_starts_at_once_one_decides(database: Database) -> None:
    keys = [bytes([n]) * 32 for n in range(6)]
    told = await asyncio.gather(
        *(read_pepper(database, SecretBox(key), pepper_of(key)) for key in keys), return_exceptions=True
    )
    good = [key for key, one in zip(keys, told, strict=True) if one == pepper_of(key)]
    assert len(good) == 1
    assert sum(isinstance(one, ConfigurationError) for one in told) == 5
    assert await check_master_key(database, SecretBox(good[0])) == pepper_of(good[0])


async def test_F23_a_database_of_an_older_version_knows_its_key_by_what_is_sealed(filled: Database, path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not the one of this database"):
        await read_pepper(filled, SecretBox(b"x" * 32), pepper_of(b"x" * 32))
    first = path.read_bytes()
    assert await read_pepper(filled, box_of(path), pepper_of(first)) == pepper_of(first)


def test_what_an_older_version_sealed_still_opens(path: Path) -> None:
    box = box_of(path)
    sealed = box.seal("lab", "sk")
    assert box.open("lab", sealed[12:]) == "sk"


def test_promoting_without_a_next_key_changes_nothing(path: Path) -> None:
    key = path.read_bytes()
    promote_next_key(path)
    assert path.read_bytes() == key
    assert not previous_path(path).exists()
