"""Where a command works: `--data-dir` and `--config`, before or after the command's name, and what they lead to."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer

from llmaas import settings
from llmaas.cli.output import note
from llmaas.domain.values import printable

if TYPE_CHECKING:
    from llmaas.datadir import Installation

P = ParamSpec("P")
T = TypeVar("T")

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="Directory of the database, keys and models.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file; default: llmaas.toml in the data directory."),
]


@dataclass(frozen=True, slots=True)
class Place:
    """None: not given, so the environment, the settings file or the default decides."""

    data_dir: Path | None = None
    config: Path | None = None

    def load(self, **flags: Any) -> settings.Loaded:
        """The settings with these flags on top. Raises ConfigurationError."""
        return settings.load({"data_dir": self.data_dir, **flags}, file=self.config)

    def arguments(self) -> list[str]:
        """The options that lead another process to the same place."""
        given = {"--data-dir": self.data_dir, "--config": self.config}
        return [text for option, path in given.items() if path is not None for text in (option, str(path.absolute()))]

    def run(self, work: Callable[[Installation], Awaitable[T]]) -> T:
        """Do something with the installation at this place, which is made when there is none yet."""
        from llmaas import log
        from llmaas.datadir import Installation

        log.configure("warning")

        async def within() -> T:
            present = self.load().settings
            is_new = not present.data_dir.exists()
            installation = Installation(present)
            try:
                await installation.open()
                if is_new:
                    note(f"made a new data directory: {printable(str(present.data_dir))}")
                return await work(installation)
            finally:
                await installation.close()

        return asyncio.run(within())


def at_place(function: Callable[Concatenate[Place, P], None]) -> Callable[..., None]:
    """Make a command of a function that takes a Place first: the options for it are added to its own."""
    signature = inspect.signature(function, eval_str=True)
    _, *own = signature.parameters.values()

    @functools.wraps(function)
    def command(ctx: typer.Context, **options: Any) -> None:
        outer = ctx.obj if isinstance(ctx.obj, Place) else Place()
        place = Place(options.pop("data_dir") or outer.data_dir, options.pop("config") or outer.config)
        function(place, **options)  # type: ignore[call-arg]

    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("data_dir", keyword, default=None, annotation=DataDir),
        inspect.Parameter("config", keyword, default=None, annotation=ConfigFile),
    ]
    own = [parameter.replace(kind=keyword) for parameter in own]
    context = inspect.Parameter("ctx", keyword, annotation=typer.Context)
    command.__signature__ = inspect.Signature([context, *own, *added])  # type: ignore[attr-defined]
    return command
