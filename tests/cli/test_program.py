"""The program as a whole: exit codes, no tracebacks, quick help, the same options everywhere."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmaas import __version__
from llmaas.cli.program import run
from tests.cli.ledgers import record, usage_row
from tests.cli.running import COMMANDS, Cli, Start, finish

HEAVY = {"sqlalchemy", "alembic", "cryptography", "structlog", "granian", "huggingface_hub", "llmaas.worker"}
MOST_MODULES = 340


def test_the_commands_are_these() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        *("serve", "chat", "apply", "export", "usage", "doctor", "migrate", "backup", "restore"),
        *("audit export", "audit list", "audit verify", "config check", "config rotate-master-key", "config show"),
        *("keys change", "keys create", "keys list", "keys revoke", "keys rotate", "keys show"),
        *("ledger check", "ledger correct", "ledger rebuild", "ledger reconcile"),
        *("models list", "models pull", "models show", "projects create", "projects credit", "projects list"),
        *("projects set", "providers add", "providers list", "providers set-secret", "providers test"),
        *("users create", "users disable", "users list", "users reset-password"),
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_takes_the_same_options_and_explains_itself(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    options = {option for param in command.params for option in param.opts}
    assert {"--data-dir", "--config"} <= options
    assert command.help
    unexplained = [p.name for p in command.params if not p.help and not getattr(p, "hidden", False)]
    assert unexplained == []
    if path[-1] in {"list", "show", "usage", "doctor"}:
        assert "--json" in options


def test_help_and_version(llmaas: Cli) -> None:
    assert llmaas.good("--version").out == f"llmaas {__version__}\n"
    out = llmaas.good("--help").out
    assert "Models and machines" in out
    assert "gateway" not in out
    assert "--overlap" in llmaas.good("keys", "rotate", "-h").out
    assert "--drain-timeout-s" in llmaas.good("serve", "--help").out
    assert "--hub-token" not in llmaas.good("serve", "--help").out


def test_without_a_command_there_is_help_and_code_2(llmaas: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Models and machines" in capsys.readouterr().out
    ran = llmaas("keys")
    assert (ran.code, ran.errors) == (2, [])
    assert "rotate" in ran.out


@pytest.mark.parametrize(
    "arguments", [("kyes", "list"), ("keys", "lits"), ("keys", "revoke"), ("keys", "list", "more")]
)
def test_what_is_no_command_is_a_usage_error(arguments: tuple[str, ...], llmaas: Cli) -> None:
    ran = llmaas(*arguments)
    assert (ran.code, ran.out, len(ran.errors)) == (2, "", 1)
    assert "Try 'llmaas" in ran.err


def test_the_place_may_stand_before_or_after_the_command(llmaas: Cli, tmp_path: Path, start: Start) -> None:
    other = tmp_path / "other"
    made = llmaas.good("keys", "create", "--name", "k", "--json", "--data-dir", str(other)).json
    assert llmaas.good("keys", "list", "--json").json == []
    assert [k["id"] for k in llmaas.good("keys", "list", "--json", "--data-dir", str(other)).json] == [made["id"]]
    by_environment = finish(start("keys", "list", "--json", env={"LLMAAS_DATA_DIR": str(other)}))
    assert [k["id"] for k in by_environment.json] == [made["id"]]


def test_codes_and_messages_of_the_real_program(start: Start, tmp_path: Path, data_dir: Path) -> None:
    data_dir.mkdir()
    fleet = tmp_path / "fleet.toml"
    fleet.write_text('[[models]]\nid = "m"\nprise = {}\n')
    failed = start("keys", "revoke", "nobody")
    misused = start("keys", "revoke")
    wrong = start("apply", str(fleet))
    ran = finish(failed)
    assert (ran.code, ran.out, ran.err) == (1, "", "llmaas: error: There is no key `nobody`.\n")
    assert finish(misused).code == 2
    ran = finish(wrong)
    message = f'{fleet}:3: unknown key "prise" in [[models]]; did you mean "price"?'
    assert (ran.code, ran.out, ran.err) == (3, "", f"llmaas: error: {message}\n")


@pytest.mark.parametrize(
    "arguments", [("backup", "nowhere/x"), ("restore", "."), ("ledger", "reconcile", "--baseline", "nowhere/x")]
)
def test_a_file_that_cannot_be_used_is_told(arguments: tuple[str, ...], llmaas: Cli) -> None:
    llmaas.good("keys", "list")
    ran = llmaas(*arguments)
    assert (ran.code, ran.out, len(ran.errors)) == (1, "", 1)


def test_a_reader_that_leaves_early_is_no_error(start: Start, llmaas: Cli) -> None:
    record(llmaas.data_dir, [usage_row(n) for n in range(500)])
    process = start("usage", "--rows", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 1


def test_an_interrupt_is_quiet(start: Start) -> None:
    process = start("apply", "-", "--data-dir", "/nonexistent")
    process.send_signal(signal.SIGINT)
    ran = finish(process)
    assert "Traceback" not in ran.err
    assert ran.code in {130, -signal.SIGINT}


def test_help_needs_nothing_heavy(environment: dict[str, str]) -> None:
    script = "import sys; from llmaas.cli.program import tree; tree(); print(*sys.modules)"
    command = [sys.executable, "-c", script]
    loaded = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY.isdisjoint(loaded)
    assert len(loaded) < MOST_MODULES
