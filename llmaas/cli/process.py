"""`llmaas serve`, and the hidden commands of the processes that it runs. Each setting is an option of theirs."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from llmaas.cli.place import Place, at_place
from llmaas.settings import Secret, Settings

_FIRST = frozenset({"host", "port", "workers", "no_model", "default_model"})


def _hidden(name: str, default: int | None) -> inspect.Parameter:
    annotation = Annotated[int | None, typer.Option(hidden=True)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_READY_FD = _hidden("ready_fd", None)
_NUMBER = _hidden("number", 0)


def _hidden_list(name: str, kind: Any) -> inspect.Parameter:
    annotation = Annotated[list[kind] | None, typer.Option(hidden=True)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


_PRELOAD = _hidden_list("preload", str)
_DOOR = _hidden_list("door", int)


def _setting_options() -> list[inspect.Parameter]:
    """An option for each setting but secrets, which do not belong on a command line. Not given is None."""
    hints = typing.get_type_hints(Settings)
    options = []
    for field in dataclasses.fields(Settings):
        if field.name == "data_dir" or hints[field.name] is Secret:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        boolean = hints[field.name] is bool
        if boolean and not field.name.startswith("no_"):
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
        option = typer.Option(
            flag,
            metavar=None if boolean else _metavar(hints[field.name]),
            help=f"{field.metadata['help']} \\[{_shown(field.default)}]",
            rich_help_panel=None if field.name in _FIRST else "More settings",
        )
        annotation = Annotated[bool | None, option] if boolean else Annotated[str | None, option]
        options.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    return options


def _metavar(kind: Any) -> str:
    if kind in (int, float):
        return "N"
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(typing.get_args(kind))
    return "A,B" if typing.get_origin(kind) is tuple else "TEXT"


def _shown(default: object) -> str:
    return (
        str(default).lower()
        if isinstance(default, bool)
        else ",".join(default)
        if isinstance(default, tuple)
        else str(default or "none")
    )


def _takes_settings(*more: inspect.Parameter) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        place = inspect.Parameter("place", inspect.Parameter.POSITIONAL_ONLY, annotation=Place)
        signature = inspect.Signature([place, *_setting_options(), *more])
        function.__signature__ = signature  # type: ignore[attr-defined]
        return at_place(function)

    return decorate


def _arguments(place: Place, flags: Mapping[str, Any]) -> list[str]:
    """The options, as given, that lead a child process to the same settings."""
    words = place.arguments()
    for name, value in flags.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            words += [f"--{option}", value]
    return words


@_takes_settings()
def serve(place: Place, /, **flags: Any) -> None:
    """Run the service until Ctrl-C."""
    from llmaas.cli.serve import serve as run

    code = run(place.load(**flags).settings, _arguments(place, flags))
    if code:
        raise typer.Exit(code)


@_takes_settings(_READY_FD, _NUMBER, _DOOR)
def gateway(place: Place, /, *, ready_fd: int | None, number: int, door: list[int] | None, **flags: Any) -> None:
    """One gateway process of `serve`."""
    from llmaas.cli.serve import gateway as run

    run(place.load(**flags), ready_fd, number, door or [])


@_takes_settings(_READY_FD, _PRELOAD)
def engines(place: Place, /, *, ready_fd: int | None, preload: list[str] | None, **flags: Any) -> None:
    """The process of `serve` that owns the embedded engines."""
    from llmaas.cli.serve import engines as run

    run(place.load(**flags).settings, preload or [], ready_fd)
