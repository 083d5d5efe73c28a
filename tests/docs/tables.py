"""The tables of docs/ that are made from the code: `python -m tests.docs.tables` writes them between their marks."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Iterable
from pathlib import Path

from llmaas import metrics
from llmaas.settings import PREFIX, Secret, Settings

DOCS = Path(__file__).parents[2] / "docs"


def settings_table() -> str:
    hints = typing.get_type_hints(Settings)
    rows = []
    for field in dataclasses.fields(Settings):
        flag = "none" if hints[field.name] is Secret else f"`--{field.name.replace('_', '-')}`"
        form = _form(hints[field.name], field.metadata["at_least"], field.metadata["at_most"])
        help_text = field.metadata["help"]
        rows.append(
            [f"`{field.name}`", f"`{PREFIX}{field.name.upper()}`", flag, form, _default(field.default), help_text]
        )
    return table(["setting", "variable", "flag", "form", "default", "meaning"], rows)


def metrics_table() -> str:
    rows: list[list[str]] = []
    for name, (text, labels) in metrics.COUNTERS.items():
        rows.append([f"`{name}_total`", "counter", ", ".join(f"`{label}`" for label in labels), text])
    for name, text in metrics.GAUGES.items():
        rows.append([f"`{name}`", "gauge", "", text])
    text = "From the arrival of a request to the first piece of its answer."
    rows.append([f"`{metrics.TTFT}`", "histogram", "`model`, `backend`", text])
    return table(["metric", "type", "labels", "meaning"], rows)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


GENERATED: dict[str, Callable[[], str]] = {"settings.md": settings_table, "metrics.md": metrics_table}
_MARKED = re.compile(r"(<!-- begin table -->\n).*?(\n<!-- end table -->)", re.DOTALL)


def with_table(text: str, made: str) -> str:
    """`text` with its marked part replaced."""
    return _MARKED.sub(lambda found: found[1] + made + found[2], text)


def _form(kind: object, least: float | None, most: float | None) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    words = {bool: "true or false", int: "whole number", float: "number", str: "text", Secret: "secret"}
    if typing.get_origin(kind) is tuple:
        return "list, comma-separated"
    name = words.get(typing.cast("type", kind), "path")
    if least is not None and most is not None:
        return f"{name}, {least} to {most}"
    return name if least is None else f"{name}, from {least}"


def _default(value: object) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value not in (None, "", ()) else "none"


def main() -> None:
    for name, make in GENERATED.items():
        path = DOCS / name
        path.write_text(with_table(path.read_text(), make()))


if __name__ == "__main__":
    main()
