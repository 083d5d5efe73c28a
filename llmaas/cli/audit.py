"""`llmaas audit`: what was done, by whom, and whether the log is as it was written."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmaas.cli import output
from llmaas.cli.parameters import JsonFlag, span_ms
from llmaas.cli.place import Place, at_place
from llmaas.domain.audit import AuditFilter, Line, Verdict

if TYPE_CHECKING:
    from llmaas.datadir import Installation

commands = typer.Typer(help="Administrative acts: list, verify, export.", no_args_is_help=True)
_NOTED = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})")

ProjectOption = Annotated[str | None, typer.Option("--project", metavar="ID", help="Only acts in this project.")]
ByOption = Annotated[str | None, typer.Option("--by", metavar="ID", help="Only acts of this user, token or program.")]
ActionOption = Annotated[
    str | None, typer.Option("--action", metavar="ACTION", help="Only this, for example key.create, or key for all.")
]
SubjectOption = Annotated[
    str | None, typer.Option("--subject", metavar="ID", help="Only acts on the thing with this id.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="From this day or time (UTC), or 24h for so long ago.")
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Up to, without, this day or time.")]


@commands.command("list")
@at_place
def list_acts(
    place: Place,
    *,
    project: ProjectOption = None,
    by: ByOption = None,
    action: ActionOption = None,
    subject: SubjectOption = None,
    start: FromOption = None,
    end: ToOption = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="At most so many.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List acts, newest first."""
    where = AuditFilter(project_id=project, actor_id=by, action=action, subject_id=subject)

    async def work(installation: Installation) -> list[Line]:
        timed = _within(where, start, end, installation.clock.now_ms())
        return await installation.audit.page(timed, before=None, limit=limit)

    lines = place.run(work)
    if as_json:
        output.json_list(record(line) for line in lines)
    elif lines:
        output.table(
            ["seq", "at", "by", "from", "action", "subject", "project", "what"], [_row(line) for line in lines]
        )
    else:
        output.note("no such acts")


@commands.command()
@at_place
def export(
    place: Place,
    *,
    project: ProjectOption = None,
    by: ByOption = None,
    action: ActionOption = None,
    subject: SubjectOption = None,
    start: FromOption = None,
    end: ToOption = None,
) -> None:
    """Print acts as lines of JSON, oldest first, with their hashes."""
    where = AuditFilter(project_id=project, actor_id=by, action=action, subject_id=subject)

    async def work(installation: Installation) -> None:
        timed = _within(where, start, end, installation.clock.now_ms())
        async for line in installation.audit.export(timed):
            print(json.dumps(record(line), ensure_ascii=False))

    place.run(work)


@commands.command()
@at_place
def verify(
    place: Place,
    *,
    expect: Annotated[
        str | None, typer.Option(metavar="N:HASH", help="What an earlier run printed: that line must be there still.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Look for lines that were changed, removed, put in or moved. Leaves with 1 when there are any."""
    noted = _noted(expect) if expect is not None else None

    async def work(installation: Installation) -> Verdict:
        return await installation.audit.verify(noted)

    found = place.run(work)
    if as_json:
        output.json_object({"ok": not found.faults, **dataclasses.asdict(found), "faults": list(found.faults)})
    else:
        for fault in found.faults:
            print(f"FAULT: {fault}")
        if not found.faults:
            print(f"ok, {found.lines} lines")
        if found.seq:
            output.note(f"last line, to be noted elsewhere for --expect: {found.seq}:{found.hash}")
    if found.faults:
        raise typer.Exit(1)


def record(line: Line) -> dict[str, Any]:
    """A line as programs read it."""
    act = line.act
    return {
        "seq": line.seq,
        "at": output.moment(line.at_ms),
        "at_ms": line.at_ms,
        "by": {"kind": act.by.kind, "id": act.by.id, "address": act.by.address},
        "action": act.action,
        "subject": {"kind": act.subject_kind, "id": act.subject_id},
        "project": act.project_id,
        "before": act.before,
        "after": act.after,
        "previous_hash": line.previous_hash.hex(),
        "hash": line.hash.hex(),
    }


def _row(line: Line) -> list[object]:
    act = line.act
    before, after = act.before or {}, act.after or {}
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [
        line.seq,
        output.day_and_time(line.at_ms),
        f"{act.by.kind} {act.by.id}",
        act.by.address,
        act.action,
        act.subject_id,
        act.project_id,
        [f"{name}={json.dumps(after.get(name), ensure_ascii=False)}" for name in changed] if act.after else [],
    ]


def _within(where: AuditFilter, start: str | None, end: str | None, now_ms: int) -> AuditFilter:
    from_ms, to_ms = span_ms(start, end, now_ms)
    return dataclasses.replace(where, from_ms=from_ms, to_ms=to_ms)


def _noted(text: str) -> tuple[int, str]:
    match = _NOTED.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not what `audit verify` prints", param_hint="--expect")
    return int(match[1]), match[2]
