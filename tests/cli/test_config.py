"""`config` and `migrate`."""

from __future__ import annotations

import dataclasses
import sqlite3

import pytest

from llmaas.settings import Settings
from tests.cli.running import Cli

TOKEN = "hf_canary"


def test_settings_and_where_they_come_from(llmaas: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (llmaas.data_dir / "llmaas.toml").write_text('port = 9000\ncors_origins = ["https://a", "https://b"]\n')
    monkeypatch.setenv("LLMAAS_HOST", "0.0.0.0")  # noqa: S104 - only shown
    monkeypatch.setenv("LLMAAS_HUB_TOKEN", TOKEN)
    monkeypatch.setenv("LLMAAS_KEY", "is no setting")
    shown = {item["name"]: item for item in llmaas.good("config", "show", "--json").json}
    assert set(shown) == {field.name for field in dataclasses.fields(Settings)}
    assert (shown["port"]["value"], shown["port"]["origin"]) == (9000, str(llmaas.data_dir / "llmaas.toml"))
    assert (shown["host"]["value"], shown["host"]["origin"]) == ("0.0.0.0", "environment")  # noqa: S104
    assert (shown["data_dir"]["value"], shown["data_dir"]["origin"]) == (str(llmaas.data_dir), "flag")
    assert shown["workers"]["origin"] == "default"
    assert shown["cors_origins"]["value"] == ["https://a", "https://b"]
    assert (shown["hub_token"]["value"], shown["hub_token"]["variable"]) == ("***", "LLMAAS_HUB_TOKEN")
    text = llmaas.good("config", "show").out
    assert TOKEN not in text
    assert "***" in text


def test_a_good_configuration_is_ok(llmaas: Cli) -> None:
    ran = llmaas.good("config", "check")
    assert (ran.out, ran.err) == ("ok\n", "")


def test_every_mistake_is_a_line_and_the_code_is_3(llmaas: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    file = llmaas.data_dir / "llmaas.toml"
    file.write_text('prot = 9000\nlog_level = "loud"\n')
    monkeypatch.setenv("LLMAAS_WORKERS", "many")
    monkeypatch.setenv("LLMAAS_DATADIR", "/x")
    ran = llmaas("config", "check")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.splitlines() == [
        f"llmaas: error: {file}: unknown setting `prot`; did you mean `port`?",
        f"llmaas: error: {file}: log_level: must be one of debug, info, warning, error (got 'loud')",
        "llmaas: error: LLMAAS_DATADIR: unknown setting; did you mean `LLMAAS_DATA_DIR`?",
        "llmaas: error: LLMAAS_WORKERS: must be a whole number (got 'many')",
    ]
    assert llmaas("keys", "list").code == 3
    named = llmaas("config", "check", "--config", str(llmaas.data_dir / "none.toml"))
    assert named.code == 3
    assert "cannot be read: No such file or directory" in named.errors[0]


def test_an_old_or_foreign_schema_is_refused_and_migrated_only_when_asked(llmaas: Cli) -> None:
    assert llmaas.good("migrate").out.endswith("as it was\n")
    with sqlite3.connect(llmaas.data_dir / "llmaas.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    ran = llmaas("keys", "list")
    assert ran.code == 3
    assert "use the version that wrote it" in ran.errors[0]
    assert llmaas("migrate").code == 3


def test_a_file_that_is_no_database_is_told(llmaas: Cli) -> None:
    (llmaas.data_dir / "llmaas.db").write_bytes(b"no database at all" * 100)
    ran = llmaas("keys", "list")
    assert ran.code == 3
    assert "cannot be used" in ran.errors[0]


def test_a_data_directory_that_is_a_file_is_told(llmaas: Cli) -> None:
    file = llmaas.data_dir / "file"
    file.touch()
    ran = llmaas("keys", "list", "--data-dir", str(file))
    assert ran.code == 3
    assert ran.errors == [f"data_dir: {file} is not writable: File exists; set --data-dir or LLMAAS_DATA_DIR"]
