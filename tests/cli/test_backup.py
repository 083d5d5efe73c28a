"""`backup` and `restore`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.ledgers import record, usage_row
from tests.cli.running import Cli


def test_a_restored_installation_is_the_one_that_was(llmaas: Cli, tmp_path: Path) -> None:
    llmaas.good("projects", "create", "lab")
    llmaas.good("keys", "create", "--project", "lab", "--name", "first")
    record(llmaas.data_dir, [usage_row(1), usage_row(2, project_id="lab")])
    file, target = tmp_path / "all.backup", tmp_path / "restored"
    made = llmaas.good("backup", str(file), "--with-master-key")
    assert made.out.startswith(f"{file}: ")
    assert made.err == ""
    restored = llmaas.good("--data-dir", str(target), "restore", str(file))
    assert restored.out.endswith(" rows restored\n")
    assert restored.err == ""
    key = target / "master.key"
    assert key.read_bytes() == (llmaas.data_dir / "master.key").read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    for command in (["projects", "list"], ["keys", "list"], ["usage", "--rows"], ["usage", "--by", "project"]):
        here, there = llmaas.good(*command, "--json"), llmaas.good("--data-dir", str(target), *command, "--json")
        assert there.json == here.json
        assert here.json


def test_the_master_key_is_asked_for_when_it_is_not_in_the_file(llmaas: Cli, tmp_path: Path) -> None:
    file, target = tmp_path / "all.backup", tmp_path / "restored"
    made = llmaas.good("backup", str(file))
    assert made.err.startswith("the master key is not in the file")
    restored = llmaas.good("--data-dir", str(target), "restore", str(file))
    assert restored.err.startswith(f"{target / 'master.key'}: it is not in the file; put the one of the backup there")
    assert not (target / "master.key").exists()


def test_the_master_key_of_another_installation_is_refused(llmaas: Cli, tmp_path: Path) -> None:
    file, target = tmp_path / "all.backup", tmp_path / "restored"
    llmaas.good("backup", str(file))
    target.mkdir()
    (target / "master.key").write_bytes(b"x" * 32)
    ran = llmaas("--data-dir", str(target), "restore", str(file))
    assert (ran.code, ran.errors[0].split(";")[0]) == (1, "The master key here is not that of the backup")


@pytest.mark.parametrize("damage", ["missing", "plain text"])
def test_a_bad_file_is_told(llmaas: Cli, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "bad.backup"
    if damage == "plain text":
        file.write_text(damage)
    ran = llmaas("--data-dir", str(tmp_path / "restored"), "restore", str(file))
    assert ran.code == 1
    assert len(ran.errors) == 1


def test_a_used_database_is_not_overwritten(llmaas: Cli, tmp_path: Path) -> None:
    file = tmp_path / "all.backup"
    llmaas.good("backup", str(file))
    assert llmaas("restore", str(file)).errors == [
        "The database is not empty; restore into a new data directory or an empty PostgreSQL database."
    ]
    assert llmaas("backup", str(file)).errors == [f"{file} is there already."]
