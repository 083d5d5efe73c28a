"""`llmaas users`: people who sign in to the console."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from llmaas.cli import output
from llmaas.cli.parameters import JsonFlag
from llmaas.cli.place import Place, at_place

if TYPE_CHECKING:
    from llmaas.app import Installation

commands = typer.Typer(help="People who sign in: create.", no_args_is_help=True)
_EMAIL = re.compile(r"[^@\s\"'<>()\[\],;:\\]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


@commands.callback()
def _group() -> None:
    """Keep `create` a command of its own while it is the only one."""


@commands.command()
@at_place
def create(
    place: Place,
    *,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="The address that the person signs in with.")],
    admin: Annotated[bool, typer.Option("--admin", help="May do everything on this installation.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Add a person and print the one-time password, to be changed at the first sign-in."""
    if not _EMAIL.fullmatch(email) or not email.isprintable():
        raise typer.BadParameter(f"{email!r} is no e-mail address", param_hint="EMAIL")
    address = email.lower()

    async def work(installation: Installation) -> str:
        return await installation.create_user(address, is_admin=admin)

    password = place.run(work)
    if as_json:
        output.json_object({"email": address, "one_time_password": password})
    else:
        print(password)
        output.note(f"one-time password of {address}; it is shown only now")
