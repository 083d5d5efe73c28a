"""Running commands and what came of it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmaas.cli.program import run, tree

Start = Callable[..., "subprocess.Popen[str]"]


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        return [line.removeprefix("llmaas: error: ") for line in self.err.splitlines() if "error: " in line]


class Cli:
    """Commands on one data directory, within this process."""

    def __init__(self, data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.data_dir = data_dir
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str, stdin: str = "") -> Ran:
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        self._capsys.readouterr()
        code = run(["--data-dir", str(self.data_dir), *arguments])
        printed = self._capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    def good(self, *arguments: str, stdin: str = "") -> Ran:
        ran = self(*arguments, stdin=stdin)
        assert ran.code == 0, ran.err
        return ran


def finish(process: subprocess.Popen[str], stdin: str = "") -> Ran:
    out, err = process.communicate(stdin, timeout=60)
    return Ran(process.returncode, out, err)


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in (group or tree()).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


COMMANDS = dict(commands())
