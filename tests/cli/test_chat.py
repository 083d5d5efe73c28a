"""`chat`: one answer for a script, a conversation for a person, with a service that behaves and one that does not."""

from __future__ import annotations

import codecs
import json
import os
import pty
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.cli.peer import Peer, reply
from tests.cli.running import Cli, Ran, Start, finish

KEY = "llmaas_test_key"
BACKEND = {"engine_type": "llama.cpp", "machine_name": "ma02"}
CHAT = "/v1/chat/completions"


def event(**choice: Any) -> bytes:
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "granite", "choices": [{"index": 0, **choice}]}
    return f"data: {json.dumps(chunk)}\n\n".encode()


def usage(tokens: int) -> bytes:
    chunk = {"id": "c", "choices": [], "usage": {"completion_tokens": tokens}, "backend": BACKEND}
    return f"data: {json.dumps(chunk)}\n\n".encode()


def begin(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.end_headers()


def streaming(*pieces: str, reasoning: str = "") -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        begin(handler)
        handler.wfile.write(b": ping\n\n" + event(delta={"role": "assistant"}, finish_reason=None))
        if reasoning:
            handler.wfile.write(event(delta={"reasoning_content": reasoning}, finish_reason=None))
        for piece in pieces:
            handler.wfile.write(event(delta={"content": piece}, finish_reason=None))
        handler.wfile.write(event(delta={}, finish_reason="stop") + usage(len(pieces)) + b"data: [DONE]\n\n")

    return answer


@pytest.fixture
def service(peer: Peer) -> Peer:
    peer.answers["/v1/models"] = (200, {"data": [{"id": "granite", "aliases": ["default"]}, {"id": "other"}]})
    peer.answers[CHAT] = streaming("¡Ho", "la!")
    return peer


def ask(llmaas: Cli, service: Peer, *arguments: str, stdin: str = "") -> Ran:
    return llmaas("chat", "--url", service.url, "--key", KEY, *arguments, stdin=stdin)


def test_one_answer(llmaas: Cli, service: Peer) -> None:
    ran = ask(llmaas, service, "¿Qué tal?", "--system", "Be brief.")
    assert (ran.code, ran.out, ran.err) == (0, "¡Hola!\n", "")
    models, question = service.asked
    assert models.path == "/v1/models"
    assert question.headers["authorization"] == f"Bearer {KEY}"
    assert question.body == {
        "model": "default",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "¿Qué tal?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_the_prompt_comes_from_stdin(llmaas: Cli, service: Peer) -> None:
    assert ask(llmaas, service, stdin="first\nsecond\n").out == "¡Hola!\n"
    assert ask(llmaas, service, "-", "--model", "other", stdin="third").out == "¡Hola!\n"
    assert service.asked[1].body["messages"] == [{"role": "user", "content": "first\nsecond\n"}]
    assert (service.asked[2].body["model"], service.asked[2].body["messages"][0]["content"]) == ("other", "third")
    empty = ask(llmaas, service, stdin=" \n")
    assert (empty.code, empty.errors) == (1, ["There is no prompt."])


def test_without_an_alias_default_the_first_model_is_asked(llmaas: Cli, service: Peer) -> None:
    service.answers["/v1/models"] = (200, {"data": [{"id": "other"}, {"id": "granite"}]})
    ask(llmaas, service, "hi")
    assert service.asked[1].body["model"] == "other"
    service.answers["/v1/models"] = (200, {"data": []})
    assert ask(llmaas, service, "hi").errors == ["The service has no model that this key may use."]


def test_reasoning_is_not_part_of_an_answer_for_a_script(llmaas: Cli, service: Peer) -> None:
    service.answers[CHAT] = streaming("42", reasoning="Let me think…")
    assert ask(llmaas, service, "hi").out == "42\n"


def test_the_key_comes_from_the_environment(llmaas: Cli, service: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    without = llmaas("chat", "--url", service.url, "hi")
    assert (without.code, without.errors) == (1, ["There is no API key to ask with."])
    assert "LLMAAS_KEY" in without.err
    monkeypatch.setenv("LLMAAS_KEY", KEY)
    assert llmaas.good("chat", "--url", f"{service.url}/v1/", "hi").out == "¡Hola!\n"
    monkeypatch.setenv("LLMAAS_PORT", service.url.rpartition(":")[2])
    assert llmaas.good("chat", "hi").out == "¡Hola!\n"
    assert service.asked[-1].headers["authorization"] == f"Bearer {KEY}"


def test_a_model_that_is_loading_is_waited_for(llmaas: Cli, service: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"message": "pulled", "type": "server_error", "param": None, "code": "loading"}
    told = {**error, "state": "pulling", "progress": 0.5, "eta_seconds": 9}

    def loading(handler: BaseHTTPRequestHandler) -> None:
        service.answers[CHAT] = streaming("now")
        reply(handler, 503, {"error": told}, [("retry-after", "0")])

    service.answers[CHAT] = loading
    assert ask(llmaas, service, "hi").out == "now\n"
    assert len(service.asked) == 3


def broken(handler: BaseHTTPRequestHandler) -> None:
    begin(handler)
    handler.wfile.write(event(delta={"content": "half"}, finish_reason=None))


def failed(handler: BaseHTTPRequestHandler) -> None:
    broken(handler)
    handler.wfile.write(
        b'data: {"error": {"message": "The engine failed.", "code": "engine_failed"}}\n\ndata: [DONE]\n\n'
    )


@pytest.mark.parametrize(
    ("answer", "out", "error"),
    [
        (broken, "half\n", "The answer broke off: the connection was closed before its end."),
        (failed, "half\n", "The engine failed."),
        ((404, {"error": {"message": "No `x`.", "code": "model_not_found"}}), "", "No `x`."),
        ((429, {"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}), "", "Slow down."),
        ((502, b"<html>"), "", "The service answers 502, and not like an LLM service."),
    ],
)
def test_what_goes_wrong_is_told(answer: Any, out: str, error: str, llmaas: Cli, service: Peer) -> None:
    service.answers[CHAT] = answer
    ran = ask(llmaas, service, "hi")
    assert (ran.code, ran.out, ran.errors) == (1, out, [error])


def test_a_wrong_key_is_told_and_not_shown(llmaas: Cli, service: Peer) -> None:
    service.answers["/v1/models"] = (
        401,
        {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}},
    )
    ran = ask(llmaas, service, "hi")
    assert (ran.code, ran.errors) == (1, ["Incorrect API key provided."])
    assert "hint: give a key with LLMAAS_KEY" in ran.err
    assert KEY not in ran.err


def test_nobody_answers(llmaas: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    ran = llmaas("chat", "--url", url, "--key", KEY, "hi")
    assert (ran.code, ran.errors) == (1, [f"{url} does not answer: Connection refused"])
    wrong = llmaas("chat", "--url", "nonsense", "--key", KEY, "hi")
    assert wrong.code == 1
    assert wrong.errors[0].startswith("The address must be an http or https address")


class Terminal:
    """A conversation at a real terminal."""

    def __init__(self, start: Start, *arguments: str, env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process: subprocess.Popen[str] = start(*arguments, env=env, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def type(self, line: str) -> None:
        self.press(f"{line}\n")

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, text: str, after: int = 0) -> int:
        """Wait until a text is on the screen; gives the place behind it."""
        deadline = time.monotonic() + 30
        while text not in self.seen[after:]:
            ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not appear in {self.seen!r}"
            try:
                self.seen += self._decoder.decode(os.read(self._master, 65536))
            except OSError as error:
                raise AssertionError(f"{text!r} did not appear in {self.seen!r}") from error
        return self.seen.index(text, after) + len(text)

    def close(self) -> None:
        os.close(self._master)


@pytest.fixture
def terminal(start: Start, service: Peer, data_dir: Path) -> Iterator[Terminal]:
    opened = Terminal(start, "chat", "--url", service.url, env={"LLMAAS_KEY": KEY})
    yield opened
    opened.close()


def test_a_conversation(terminal: Terminal, service: Peer) -> None:
    service.answers[CHAT] = streaming("\x1b[31m¡Hola!", reasoning="hm")
    terminal.type("uno")
    at = terminal.until("ma02 · llama.cpp · first token ")
    assert "\x1b[2mhm\x1b[0m" in terminal.seen
    assert "\\x1b[31m¡Hola!" in terminal.seen
    terminal.type("dos")
    at = terminal.until(" 1 tokens]", terminal.until("first token", at))
    terminal.type("/system Sé breve.")
    terminal.type("tres")
    at = terminal.until(" 1 tokens]", at)
    terminal.type("/reset")
    at = terminal.until("forgotten", at)
    terminal.type("/model other")
    terminal.type("/wat")
    at = terminal.until("no such command: /wat", at)
    service.answers[CHAT] = (503, {"error": {"message": "No backend.", "code": "no_backend"}})
    terminal.type("cuatro")
    at = terminal.until("error: No backend.", at)
    service.answers[CHAT] = streaming("bien")
    terminal.type("cinco")
    terminal.until(" 1 tokens]", at)
    terminal.type("/quit")
    assert terminal.process.wait(10) == 0
    asked = [request.body for request in service.asked if request.body]
    first = {"role": "user", "content": "uno"}
    said = {"role": "assistant", "content": "\x1b[31m¡Hola!"}
    system = {"role": "system", "content": "Sé breve."}
    assert asked[1]["messages"] == [first, said, {"role": "user", "content": "dos"}]
    assert asked[2]["messages"] == [system, {"role": "user", "content": "tres"}]
    assert asked[4]["messages"] == [system, {"role": "user", "content": "cinco"}]
    assert asked[4]["model"] == "other"


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: Terminal, service: Peer) -> None:
    gone, pace = threading.Event(), threading.Event()

    def endless(handler: BaseHTTPRequestHandler) -> None:
        begin(handler)
        try:
            while True:
                handler.wfile.write(event(delta={"content": "bla "}, finish_reason=None))
                pace.wait(0.01)
        except OSError:
            gone.set()

    service.answers[CHAT] = endless
    terminal.type("uno")
    at = terminal.until("bla bla")
    terminal.process.send_signal(signal.SIGINT)
    at = terminal.until("(stopped)", at)
    assert gone.wait(10)
    service.answers[CHAT] = streaming("fin")
    terminal.type("dos")
    terminal.until("> ", terminal.until(" 1 tokens]", at))
    roles = [message["role"] for message in service.asked[-1].body["messages"]]
    assert roles == ["user", "assistant", "user"]
    terminal.press("\x04")
    assert terminal.process.wait(10) == 0


def test_ctrl_c_ends_a_single_answer_with_130(start: Start, service: Peer) -> None:
    going, pace = threading.Event(), threading.Event()

    def endless(handler: BaseHTTPRequestHandler) -> None:
        begin(handler)
        going.set()
        try:
            while True:
                handler.wfile.write(event(delta={"content": "bla "}, finish_reason=None))
                pace.wait(0.01)
        except OSError:
            pass

    service.answers[CHAT] = endless
    process = start("chat", "--url", service.url, "hi", env={"LLMAAS_KEY": KEY})
    assert going.wait(30)
    assert process.stdout is not None
    process.stdout.read(8)
    process.send_signal(signal.SIGINT)
    ran = finish(process)
    assert (ran.code, "Traceback" in ran.err) == (130, False)
