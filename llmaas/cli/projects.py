"""`llmaas projects`: the tenants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmaas.cli import output
from llmaas.cli.parameters import JsonFlag, name
from llmaas.cli.place import Place, at_place
from llmaas.domain.projects import Project, valid_id
from llmaas.errors import NotFound

if TYPE_CHECKING:
    from llmaas.app import Installation

commands = typer.Typer(help="Projects, which own keys and usage: create, list.", no_args_is_help=True)


@commands.command()
@at_place
def create(
    place: Place,
    *,
    project_id: Annotated[str, typer.Argument(metavar="ID", help="Lower-case letters, digits, dots and dashes.")],
    shown_name: Annotated[str | None, typer.Option("--name", help="What people call it; default: the id.")] = None,
) -> None:
    """Make a project."""
    if not valid_id(project_id):
        form = "1 to 64 lower-case letters, digits, dots, dashes and underscores"
        raise typer.BadParameter(f"must be {form}, with a letter or digit at both ends", param_hint="ID")
    shown = project_id if shown_name is None else name(shown_name, "--name")

    async def work(installation: Installation) -> None:
        await installation.projects.add(Project(project_id, shown, installation.clock.now_ms()))

    place.run(work)
    print(f"created project {project_id}")


@commands.command("list")
@at_place
def list_projects(place: Place, *, as_json: JsonFlag = False) -> None:
    """List projects."""

    async def work(installation: Installation) -> list[Project]:
        return await installation.projects.list()

    projects = place.run(work)
    if as_json:
        output.json_list(
            {"id": p.id, "name": p.name, "tier": p.tier_id, "created": output.moment(p.created_ms)} for p in projects
        )
    else:
        rows = [[p.id, p.name, p.tier_id, output.day_and_time(p.created_ms)] for p in projects]
        output.table(["id", "name", "tier", "created"], rows)


async def require_project(installation: Installation, project_id: str) -> None:
    """Raises NotFound."""
    if project_id not in {p.id for p in await installation.projects.list()}:
        raise NotFound(f"There is no project `{project_id}`.", param="project")
