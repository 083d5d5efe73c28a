"""`llmaas chat`: a talk with a model in the terminal, through the service's own HTTP API."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from llmaas.cli import INTERRUPTED
from llmaas.cli.client import Piece, Service, Told, own_url
from llmaas.cli.output import note
from llmaas.cli.place import Place, at_place
from llmaas.domain.values import printable
from llmaas.errors import InvalidRequest, LlmaasError, Loading
from llmaas.settings import Secret, read_client_key

_LONGEST_WAIT_S = 1800.0
_SHORTEST_WAIT_S, _LONGEST_STEP_S = 0.1, 5.0
_DIM, _PLAIN, _CLEAR_LINE = "\x1b[2m", "\x1b[0m", "\r\x1b[K"
_HELP = """/reset            forget the conversation
/system TEXT      set the system prompt (no text: show it) and begin anew
/model NAME       talk to another model
/quit             leave (or Ctrl-D); Ctrl-C stops an answer"""


@at_place
def chat(
    place: Place,
    *,
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="Ask this and leave; - reads it from stdin.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model or alias; default: `default`, else the first chat model.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The service; default: the one of these settings.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="An API key; better: in the variable LLMAAS_KEY.")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.")] = None,
) -> None:
    """Talk to a model through the service. With a prompt, or when input is no terminal: one answer."""
    credential = Secret(key) if key else read_client_key()
    if not credential:
        hint = "make one with `llmaas keys create --name chat`, and put it into LLMAAS_KEY"
        raise InvalidRequest("There is no API key to ask with.", hint=hint)
    service = Service(url or own_url(place.load().settings), credential)
    talk = Talk(service, model or _default_model(service), system)
    if prompt is None and sys.stdin.isatty():
        _converse(talk)
        return
    question = sys.stdin.read() if prompt in (None, "-") else prompt
    if not question or not question.strip():
        raise InvalidRequest("There is no prompt.")
    if _answer(talk, question).total_s is None:
        raise typer.Exit(INTERRUPTED)


class Talk:
    """A conversation with one model."""

    def __init__(self, service: Service, model: str, system: str | None) -> None:
        self.model = model
        self._service = service
        self._messages: list[dict[str, str]] = []
        self.reset(system)

    @property
    def system(self) -> str | None:
        return next((m["content"] for m in self._messages if m["role"] == "system"), None)

    def reset(self, system: str | None) -> None:
        self._messages = [{"role": "system", "content": system}] if system else []

    def ask(self, question: str, screen: Screen) -> Told:
        """Show an answer while it comes. One that Ctrl-C stops stays in the conversation as far as it came."""
        told = Told()
        self._messages.append({"role": "user", "content": question})
        answer = ""
        pieces = self._service.stream(self.model, self._messages, told)
        try:
            for piece in pieces:
                screen.show(piece)
                answer += "" if piece.reasoning else piece.text
        except KeyboardInterrupt:
            screen.stopped()
        except LlmaasError:
            self._messages.pop()
            raise
        finally:
            pieces.close()
            screen.end()
        self._messages.append({"role": "assistant", "content": answer})
        return told


class Screen:
    """Where an answer appears. On a terminal reasoning is dim, and nothing that the model says can steer it."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._dim = False
        self._column_zero = True

    def show(self, piece: Piece) -> None:
        if piece.reasoning and not self._terminal:
            return
        if piece.reasoning != self._dim:
            sys.stdout.write(_DIM if piece.reasoning else f"{_PLAIN}\n\n")
            self._dim = piece.reasoning
        text = _harmless(piece.text) if self._terminal else piece.text
        sys.stdout.write(text)
        sys.stdout.flush()
        self._column_zero = text.endswith("\n")

    def stopped(self) -> None:
        note(" (stopped)")

    def end(self) -> None:
        if self._dim:
            sys.stdout.write(_PLAIN)
            self._dim = False
        if not self._column_zero:
            sys.stdout.write("\n")
        self._column_zero = True
        sys.stdout.flush()


def _converse(talk: Talk) -> None:
    import readline  # noqa: F401 - gives `input` its editing and history

    note(f"{talk.model} · /help shows the commands, Ctrl-D leaves")
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            note("")
            return
        except KeyboardInterrupt:
            note(" (/quit or Ctrl-D leaves)")
            continue
        if line in {"/quit", "/exit"}:
            return
        if line.startswith("/"):
            _command(talk, *line.split(maxsplit=1))
        elif line:
            try:
                note(_told(_answer(talk, line)))
            except KeyboardInterrupt:
                note(" (no longer waiting)")
            except LlmaasError as error:
                note(f"error: {printable(error.message)}" + (f" ({printable(error.hint)})" if error.hint else ""))


def _command(talk: Talk, name: str, text: str = "") -> None:
    match name:
        case "/reset":
            talk.reset(talk.system)
            note("forgotten")
        case "/system" if text:
            talk.reset(text)
            note("system prompt set; the conversation begins anew")
        case "/system":
            note(talk.system or "no system prompt")
        case "/model" if text:
            talk.model = text.strip()
            note(f"now talking to {talk.model}")
        case "/help":
            note(_HELP)
        case _:
            note(f"no such command: {name}; /help shows them all")


def _answer(talk: Talk, question: str) -> Told:
    """Ask, and wait while the model is being loaded."""
    deadline = time.monotonic() + _LONGEST_WAIT_S
    waited = False
    while True:
        try:
            told = talk.ask(question, Screen())
        except Loading as loading:
            if time.monotonic() > deadline:
                raise
            _show_progress(loading)
            waited = True
            wait_s = 1.0 if loading.retry_after_s is None else loading.retry_after_s
            time.sleep(min(max(wait_s, _SHORTEST_WAIT_S), _LONGEST_STEP_S))
            continue
        except LlmaasError:
            if waited:
                note("")
            raise
        return told


def _show_progress(loading: Loading) -> None:
    done = f" {loading.progress:.0%}" if isinstance(loading.progress, int | float) else ""
    left = f", about {loading.eta_s:.0f} s left" if isinstance(loading.eta_s, int | float) else ""
    if sys.stderr.isatty():
        sys.stderr.write(f"{_CLEAR_LINE}model: {printable(loading.state)}{done}{left} ")
        sys.stderr.flush()


def _told(told: Told) -> str:
    backend = told.backend or {}
    parts = [printable(str(backend[name])) for name in ("machine_name", "engine_type") if backend.get(name)]
    if told.first_s is not None:
        parts.append(f"first token {told.first_s:.2f} s")
    if told.tokens_per_s is not None:
        parts.append(f"{told.tokens_per_s:.1f} tokens/s")
    if told.output_tokens is not None:
        parts.append(f"{told.output_tokens} tokens")
    return f"[{' · '.join(parts)}]"


def _default_model(service: Service) -> str:
    models = [m for m in service.models() if isinstance(m, dict) and isinstance(m.get("id"), str)]
    for model in models:
        if "default" in (model["id"], *(model.get("aliases") or ())):
            return "default"
    if not models:
        raise InvalidRequest("The service has no model that this key may use.", hint="see `llmaas models list`")
    return str(models[0]["id"])


def _harmless(text: str) -> str:
    return "".join(c if c in "\n\t" else printable(c) for c in text)
