"""`llmaas users`: people who sign in to the console."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from llmaas.cli import output
from llmaas.cli.actor import operator
from llmaas.cli.parameters import JsonFlag
from llmaas.cli.place import Place, at_place
from llmaas.domain.users import User, valid_email
from llmaas.errors import NotFound

if TYPE_CHECKING:
    from llmaas.datadir import Installation

commands = typer.Typer(help="People who sign in: create, list, disable, reset-password.", no_args_is_help=True)
EmailArgument = Annotated[str, typer.Argument(metavar="EMAIL", help="The address that the person signs in with.")]


@commands.command()
@at_place
def create(
    place: Place,
    *,
    email: EmailArgument,
    admin: Annotated[bool, typer.Option("--admin", help="May do everything on this installation.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Add a person and print the one-time password, to be changed at the first sign-in."""
    if not valid_email(email):
        raise typer.BadParameter(f"{email!r} is no e-mail address", param_hint="EMAIL")
    address = email.lower()

    async def work(installation: Installation) -> str:
        return await installation.create_user(address, is_admin=admin, by=operator())

    _print_password(address, place.run(work), as_json=as_json)


@commands.command("list")
@at_place
def list_users(place: Place, *, as_json: JsonFlag = False) -> None:
    """List people."""

    async def work(installation: Installation) -> list[User]:
        return await installation.users.list()

    users = place.run(work)
    if as_json:
        output.json_list(
            {
                "id": user.id,
                "email": user.email,
                "name": user.name,
                "admin": user.is_admin,
                "created": output.moment(user.created_ms),
                "disabled": output.moment(user.disabled_ms),
                "second_factor": user.has_second_factor,
            }
            for user in users
        )
        return
    columns = ["email", "name", "admin", "second factor", "created", "disabled"]
    rows = [
        [
            user.email,
            user.name,
            user.is_admin,
            user.has_second_factor,
            output.day_and_time(user.created_ms),
            output.day_and_time(user.disabled_ms),
        ]
        for user in users
    ]
    output.table(columns, rows)


@commands.command()
@at_place
def disable(
    place: Place,
    *,
    email: EmailArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Let the person in again.")] = False,
) -> None:
    """Stop a person's sessions and tokens and let nobody sign in as them. API keys belong to projects and go on."""

    async def work(installation: Installation) -> User:
        user = await _find(installation, email)
        disabled_ms = None if undo else installation.clock.now_ms()
        await installation.users.change(user, dataclasses.replace(user, disabled_ms=disabled_ms), by=operator())
        return user

    print(f"{'enabled' if undo else 'disabled'} {place.run(work).email}")


@commands.command("reset-password")
@at_place
def reset_password(place: Place, *, email: EmailArgument, as_json: JsonFlag = False) -> None:
    """Print a new one-time password. The person's sessions end; the second factor stays."""

    async def work(installation: Installation) -> tuple[str, str]:
        user = await _find(installation, email)
        return user.email, await installation.reset_password(user, by=operator())

    address, password = place.run(work)
    _print_password(address, password, as_json=as_json)


async def _find(installation: Installation, email: str) -> User:
    user = await installation.users.by_email(email.lower())
    if user is None:
        raise NotFound(f"There is no user `{email[:200]}`.", param="email")
    return user


def _print_password(address: str, password: str, *, as_json: bool) -> None:
    if as_json:
        output.json_object({"email": address, "one_time_password": password})
    else:
        print(password)
        output.note(f"one-time password of {address}; it is shown only now")
