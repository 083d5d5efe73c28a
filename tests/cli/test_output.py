"""Tables, and values of options."""

from __future__ import annotations

import sys

import pytest
import typer

from llmaas.cli import output
from llmaas.cli.parameters import duration_ms, instant_ms, words


def test_a_terminal_gets_a_drawn_table_without_markup_or_control(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    output.table(["name", "count"], [["[red]x[/red]\x1b[31m\x9b", 7], [None, None], [["a", "b"], 10]], title="Things")
    drawn = capsys.readouterr().out
    assert "[red]x[/red]\\x1b[31m\\x9b" in drawn
    assert "a, b" in drawn
    assert "Things" in drawn


def test_a_narrow_terminal_gets_one_column_under_the_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    output.table(["name", "count"], [["x" * 50, 7], ["y", 10]])
    assert capsys.readouterr().out.splitlines() == [f"name   {'x' * 50}", "count  7", "", "name   y", "count  10"]


def test_a_pipe_gets_plain_columns_that_are_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["name", "count", "none"], [["x" * 300, 7, None], ["y", 10, None], [True, None, None]])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["NAME", "COUNT", "NONE"],
        ["x" * 300, "7", "-"],
        ["y", "10", "-"],
        ["yes", "-", "-"],
    ]
    assert lines[1].index("7") == lines[2].index("0")


def test_json_keeps_every_character(capsys: pytest.CaptureFixture[str]) -> None:
    output.json_list([{"a": "ñ\x1b\n"}, {"a": 1}])
    assert capsys.readouterr().out == '[\n{"a": "ñ\\u001b\\n"},\n{"a": 1}\n]\n'
    output.json_list([])
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize(
    ("text", "expected_s"), [("90s", 90), ("15m", 900), ("24h", 86_400), ("30d", 2_592_000), ("2w", 1_209_600)]
)
def test_durations(text: str, expected_s: int) -> None:
    assert duration_ms(text, "--for") == expected_s * 1000
    assert instant_ms(text, "--from", 10**13) == 10**13 - expected_s * 1000


@pytest.mark.parametrize("text", ["", "5", "h", "5 h", "1h30m", "-5h", "5H", "\u0665h", "1e3s", "0s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        duration_ms(text, "--for")


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("2026-05-29", 1_780_012_800_000),
        ("2026-05-29T12:00", 1_780_056_000_000),
        ("2026-05-29 12:00:00.5Z", 1_780_056_000_500),
        ("2026-05-29T14:00+02:00", 1_780_056_000_000),
    ],
)
def test_instants(text: str, expected_ms: int) -> None:
    assert instant_ms(text, "--from", 0) == expected_ms


@pytest.mark.parametrize("text", ["", "now", "2026-13-01", "29.05.2026", "0001-01-01T00:00+23:59x"])
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        instant_ms(text, "--from", 0)


def test_words() -> None:
    assert words(" a, b,,a ,c d") == ["a", "b", "c d"]
    assert words(None) == words("") == []
