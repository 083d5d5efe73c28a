"""`llmaas doctor`: what is wrong with this installation, and how to put it right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from llmaas.cli import output
from llmaas.cli.parameters import JsonFlag
from llmaas.cli.place import Place, at_place
from llmaas.domain.values import printable
from llmaas.errors import ConfigurationError, LlmaasError

if TYPE_CHECKING:
    from llmaas.cli.checks import Finding
    from llmaas.datadir import Installation


@at_place
def doctor(place: Place, *, as_json: JsonFlag = False) -> None:
    """Check this installation. Leaves with 1 when something fails; each line says how to fix it."""
    from llmaas.cli.checks import State

    findings = _examine(place)
    if as_json:
        output.json_list({"state": f.state, "about": f.about, "text": f.text, "fix": f.fix} for f in findings)
    else:
        for finding in findings:
            print(f"{finding.state:<5} {printable(finding.about)}: {printable(finding.text)}")
            if finding.fix:
                print(f"      fix: {printable(finding.fix)}")
    if any(finding.state is State.FAIL for finding in findings):
        raise typer.Exit(1)


def _examine(place: Place) -> Sequence[Finding]:
    from llmaas.cli import checks

    try:
        settings = place.load().settings
    except ConfigurationError as error:
        return [
            checks.fail("settings", problem, "correct it; `llmaas config show` explains") for problem in error.problems
        ]
    findings = [checks.good("settings", "valid"), *checks.before_opening(settings)]

    async def work(installation: Installation) -> None:
        async for finding in checks.within(installation):
            findings.append(finding)

    try:
        place.run(work)
    except ConfigurationError as error:
        findings += [checks.fail("data", problem, "") for problem in error.problems]
    except LlmaasError as error:
        findings.append(checks.fail("database", error.message, error.hint or ""))
    return findings
