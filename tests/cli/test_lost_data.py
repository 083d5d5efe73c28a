"""A data directory whose master key or database is not its own any more: every start says so, and nothing begins anew unasked."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from tests.cli.ledgers import record, usage_row
from tests.cli.running import Cli, Start, finish


def exchange_key(data_dir: Path) -> None:
    (data_dir / "master.key").write_bytes(b"k" * 32)


def cut_database(data_dir: Path) -> None:
    for file in data_dir.glob("llmaas.db*"):
        file.unlink()
    (data_dir / "llmaas.db").touch()


@pytest.mark.parametrize(
    "command", [["keys", "list"], ["config", "check"], ["backup", "b.llmaas"], ["ledger", "check"]]
)
def test_F23_a_foreign_master_key_is_refused_with_words(llmaas: Cli, command: list[str]) -> None:
    exchange_key(llmaas.data_dir)
    ran = llmaas(*command)
    assert ran.code == 3
    assert "master_key: it is not the one of this database" in ran.errors[0]


def test_F23_a_foreign_master_key_of_the_settings_is_refused(llmaas: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMAAS_MASTER_KEY", "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=")
    for command in (["keys", "list"], ["config", "check"]):
        ran = llmaas(*command)
        assert (ran.code, "comes from LLMAAS_MASTER_KEY or the settings file" in ran.errors[0]) == (3, True)


def test_F23_the_doctor_names_a_foreign_master_key(llmaas: Cli) -> None:
    exchange_key(llmaas.data_dir)
    ran = llmaas("doctor", "--json")
    assert ran.code == 1
    assert any("not the one of this database" in one["text"] for one in ran.json if one["state"] == "fail")


def test_F23_a_database_without_its_master_key_is_refused(llmaas: Cli) -> None:
    (llmaas.data_dir / "master.key").unlink()
    for command in (["keys", "list"], ["config", "check"]):
        ran = llmaas(*command)
        assert (ran.code, "copy it there" in ran.errors[0]) == (3, True)
    assert not (llmaas.data_dir / "master.key").exists()


@pytest.mark.parametrize("command", [["keys", "list"], ["config", "check"], ["migrate"], ["doctor"]])
@pytest.mark.parametrize("cut", [True, False])
def test_F23_an_empty_database_beside_a_master_key_is_not_a_new_installation(
    llmaas: Cli, command: list[str], cut: bool
) -> None:
    record(llmaas.data_dir, [usage_row(1)])
    cut_database(llmaas.data_dir)
    if not cut:
        (llmaas.data_dir / "llmaas.db").unlink()
    ran = llmaas(*command)
    assert ran.code in {1, 3}
    assert f"llmaas.db is {'empty' if cut else 'not there'}" in ran.out + ran.err
    assert "put the database back" in ran.out + ran.err
    assert (llmaas.data_dir / "llmaas.db").exists() == cut, (
        "nothing is made, so that nothing takes the place of what is put back"
    )
    assert not cut or not (llmaas.data_dir / "llmaas.db").stat().st_size
    assert "restore" in ran.out + ran.err
    assert "master.key away" in ran.out + ran.err


@pytest.mark.parametrize("trace", ["spool/lock", "workers/w", "llmaas.db.lock", "spool/00000001-1.rows"])
def test_F23_what_gateways_left_behind_tells_of_a_lost_database(
    llmaas: Cli, monkeypatch: pytest.MonkeyPatch, trace: str
) -> None:
    """The master key is a setting, so no file of it is there."""
    monkeypatch.setenv("LLMAAS_MASTER_KEY", "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=")
    shutil.rmtree(llmaas.data_dir)
    file = llmaas.data_dir / trace
    file.parent.mkdir(parents=True)
    file.touch()
    ran = llmaas("keys", "list")
    assert ran.code == 3
    assert str(file if file.suffix != "" or file.name == "lock" else file.parent) in ran.errors[0]
    file.unlink()
    if file.parent.name == "workers":
        file.parent.rmdir()
    llmaas.good("keys", "list")


def test_a_first_start_that_was_cut_short_goes_on(llmaas: Cli) -> None:
    """Schema and master key are there, and nobody has opened them yet."""
    with sqlite3.connect(llmaas.data_dir / "llmaas.db") as database:
        database.execute("DELETE FROM vault")
        database.execute("DELETE FROM projects")
    database.close()
    llmaas.good("config", "check")
    llmaas.good("keys", "list")


def test_a_lost_database_is_restored_beside_its_master_key(llmaas: Cli, tmp_path: Path) -> None:
    llmaas.good("keys", "create", "--project", "default", "--name", "kept")
    llmaas.good("backup", str(tmp_path / "b.llmaas"))
    cut_database(llmaas.data_dir)
    (llmaas.data_dir / "llmaas.db.lock").touch()
    llmaas.good("restore", str(tmp_path / "b.llmaas"))
    assert "kept" in llmaas.good("keys", "list").out


def test_a_restore_that_fails_leaves_no_new_installation(llmaas: Cli, tmp_path: Path) -> None:
    cut_database(llmaas.data_dir)
    (llmaas.data_dir / "llmaas.db.lock").touch()
    (tmp_path / "b.llmaas").write_bytes(b"no backup")
    assert llmaas("restore", str(tmp_path / "b.llmaas")).code != 0
    ran = llmaas("keys", "list")
    assert (ran.code, "is empty" in ran.err) == (3, True)


@pytest.mark.parametrize("harm", [exchange_key, cut_database])
def test_F23_the_service_does_not_start(llmaas: Cli, start: Start, harm: object) -> None:
    assert callable(harm)
    harm(llmaas.data_dir)
    ran = finish(start("serve", "--no-model"))
    assert ran.code == 3
    assert "llmaas: error: " in ran.err
    assert "Traceback" not in ran.err


def test_F23_random_bytes_over_a_page_of_the_database_are_named(llmaas: Cli) -> None:
    """Over every ninth one: the check of the ledger says so, or no command opens the file."""
    record(llmaas.data_dir, [usage_row(n, end_user=f"u{n % 9}") for n in range(400)])
    path = llmaas.data_dir / "llmaas.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    sound, random = path.read_bytes(), Random(3)
    for start in range(0, len(sound), 9 * size):
        path.write_bytes(sound[:start] + random.randbytes(size) + sound[start + size :])
        ran = llmaas("ledger", "check")
        assert ran.code == (1 if "is damaged" in ran.out else 3), (start // size, ran)
        assert "damaged" in ran.out + ran.err
        assert "backup" in ran.out + ran.err
    path.write_bytes(sound)
    assert llmaas.good("ledger", "check").out == "ok\n"


@pytest.mark.parametrize("command", [["keys", "list"], ["ledger", "check"], ["doctor"], ["migrate"]])
def test_F23_a_damaged_log_is_named_and_not_passed_over(llmaas: Cli, command: list[str]) -> None:
    """As after a crash, so that rows are in the log alone."""
    path, log = llmaas.data_dir / "llmaas.db", llmaas.data_dir / "llmaas.db-wal"
    with closing(sqlite3.connect(path)) as held:
        held.execute("SELECT count(*) FROM usage").fetchone()
        record(llmaas.data_dir, [usage_row(n) for n in range(5)])
        whole = {file: file.read_bytes() for file in (path, log)}
    for file, content in whole.items():
        file.write_bytes(content)
    log.write_bytes(b"\x5a" * 32 + whole[log][32:])
    ran = llmaas(*command)
    assert ran.code in {1, 3}
    assert f"{log} is damaged" in ran.out + ran.err
    log.write_bytes(whole[log])
    assert llmaas.good("ledger", "check").out == "ok\n"
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM usage").fetchone() == (5,)


@pytest.mark.parametrize("command", [["keys", "list"], ["migrate"]])
def test_a_database_file_that_was_made_beforehand_is_for_its_owner_only(llmaas: Cli, command: list[str]) -> None:
    shutil.rmtree(llmaas.data_dir)
    llmaas.data_dir.mkdir()
    made = llmaas.data_dir / "llmaas.db"
    made.touch()
    made.chmod(0o644)
    llmaas.good(*command)
    llmaas.good("keys", "list")
    assert {file.name: file.stat().st_mode & 0o077 for file in llmaas.data_dir.glob("llmaas.db*")} == {"llmaas.db": 0}
    made.chmod(0o644)
    (finding,) = [one for one in llmaas("doctor", "--json").json if one["about"] == "database"]
    assert (finding["state"], finding["text"]) == ("warn", f"{made} can be read by others (mode 644)")
