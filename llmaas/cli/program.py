"""The tree of commands and what they have in common: how errors are told, and the exit codes.

0 good, 1 failed, 2 usage, 3 configuration, 130 interrupted.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from llmaas import __version__
from llmaas.cli import (
    audit,
    backup,
    chat,
    config,
    doctor,
    fleet,
    keys,
    ledger,
    models,
    process,
    projects,
    providers,
    usage,
    users,
)
from llmaas.cli.place import ConfigFile, DataDir, Place
from llmaas.domain.values import printable
from llmaas.errors import ConfigurationError, LlmaasError

_FAILED = 1


def program() -> typer.Typer:
    """The tree of commands."""
    root = typer.Typer(
        help="LLM as a Service on your own machines: an OpenAI-compatible API with keys, metering and money.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,  # they would print local variables, keys among them
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    root.callback()(_root)
    running, fleet_panel, customers, care = "Run", "Models and machines", "Customers", "Care"
    for function, panel in (
        (process.serve, running),
        (chat.chat, running),
        (fleet.apply, fleet_panel),
        (fleet.export, fleet_panel),
        (usage.usage, customers),
        (doctor.doctor, care),
        (config.migrate, care),
        (backup.backup, care),
        (backup.restore, care),
    ):
        root.command(rich_help_panel=panel)(function)
    for function in (process.gateway, process.engines):
        root.command(hidden=True)(function)
    for name, commands, panel in (
        ("models", models.commands, fleet_panel),
        ("providers", providers.commands, fleet_panel),
        ("projects", projects.commands, customers),
        ("keys", keys.commands, customers),
        ("users", users.commands, customers),
        ("ledger", ledger.commands, care),
        ("audit", audit.commands, care),
        ("config", config.commands, care),
    ):
        root.add_typer(commands, name=name, rich_help_panel=panel)
    return root


@functools.cache
def tree() -> Any:
    """The same, ready to run. Building it costs more than most commands."""
    return typer.main.get_command(program())


def run(arguments: Sequence[str]) -> int:
    """Run a command; gives its exit code. Expected errors become messages on stderr."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = tree().main(args=list(arguments), prog_name="llmaas", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not complain when it flushes the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except typer.TyperException as error:
        return _usage_error(error)
    except ConfigurationError as error:
        _say(*error.problems)
        return ConfigurationError.EXIT_CODE
    except LlmaasError as error:
        _say(error.message)
        if error.hint:
            print(f"hint: {printable(error.hint.splitlines()[0])}", file=sys.stderr)
        return _FAILED
    except OSError as error:  # a file that a command was told to read or write
        if error.strerror is None:
            raise
        _say(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        return _FAILED
    except (typer.Abort, EOFError):
        return _FAILED
    return code if isinstance(code, int) else 0


def _usage_error(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    if not error.format_message():  # a group without a command: it has printed its help
        return error.exit_code
    if context is not None:
        print(context.get_usage(), file=sys.stderr)
        print(f"Try '{context.command_path} --help' for help.", file=sys.stderr)
    _say(error.format_message())
    return error.exit_code


def _say(*messages: str) -> None:
    for message in messages:
        print(f"llmaas: error: {printable(message)}", file=sys.stderr)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"llmaas {__version__}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    ctx.obj = Place(data_dir, config)
