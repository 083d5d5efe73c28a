"""A scriptable inference server on a free loopback port: OpenAI's API, Ollama's native one, and misbehaviour.

In a test: `async with FakeUpstream() as up: up.script(Behaviour(...)); ... up.base_url ...; await up.wait_cancelled()`.
As a program: `python -m tests.fakes.upstream PORT`, steered by `POST /_script`, `/_release`, `/_reset`, `GET /_log`,
`/_wait?outcome=cancelled`. A request takes what is scripted next for its model, else what is scripted for any, else
what its model's name says (`behaviour.NAMED`), else the default.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from tests.fakes.answer import count_prompt, plan
from tests.fakes.behaviour import NAMED, Behaviour, Flavour
from tests.fakes.error_shapes import Shape, error_body
from tests.fakes.framing import Chunk, Response, ndjson, sse, whole
from tests.fakes.ollama_shapes import OllamaAnswer, embed_body, show_body, tags_body, window
from tests.fakes.openai_shapes import Json, OpenAiAnswer, embeddings_body, models_body
from tests.fakes.record import DEADLINE_S, Log, Record
from tests.fakes.wire import Connection

_CONTEXT_ERRORS: dict[Flavour, Shape] = {
    "openai": "context_openai",
    "llama.cpp": "context_llamacpp",
    "vllm": "context_vllm",
}


class FakeUpstream:
    """`context`: prompts of more words get the flavour's error; None takes any. Starts when it is entered."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        models: tuple[str, ...] = ("fake",),
        flavour: Flavour = "openai",
        context: int | None = None,
        port: int = 0,
    ) -> None:
        self.api_key = api_key
        self.models = models
        self.flavour = flavour
        self.context = context
        self.port = port
        self.log = Log()
        self._named: dict[str, Behaviour] = {}
        self._scripts: dict[str | None, deque[Behaviour]] = {}
        self._default = Behaviour()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after `stop()` again on the same port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections from now on and reset the open ones."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            await connection.stop()
        self._connections.clear()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    @property
    def url(self) -> str:
        """Where Ollama's native API stands."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """Where OpenAI's API stands."""
        return f"{self.url}/v1"

    # Steering.

    def script(self, *behaviours: Behaviour, model: str | None = None) -> None:
        """Behaviours of the next requests, one each; with `model`, of the next requests for that model.

        A request by GET has its path in the model's place, and takes nothing that is scripted for any request.
        """
        self._scripts.setdefault(model, deque()).extend(behaviours)

    def always(self, behaviour: Behaviour, model: str | None = None) -> None:
        """The behaviour of all requests, or of all for one model, that no script speaks of."""
        if model is None:
            self._default = behaviour
        else:
            self._named[model] = behaviour

    def reset(self) -> None:
        """Forget scripts and the log; let go who waits. Open connections stay."""
        self.release_now()
        self._scripts.clear()
        self._named.clear()
        self._default = Behaviour()
        self.log.requests.clear()
        self.log.dropped = 0

    def release_now(self) -> int:
        return self.log.release_now()

    async def release(self, count: int = 1, timeout_s: float = DEADLINE_S) -> int:
        """Wait until `count` requests are paused, then let all of them go on."""
        await self.wait_paused(count, timeout_s)
        return self.log.release_now()

    # Observing.

    @property
    def requests(self) -> list[Record]:
        return self.log.requests

    @property
    def last(self) -> Record:
        return self.log.requests[-1]

    @property
    def open_connections(self) -> int:
        return self.log.open_connections

    async def wait_requests(self, count: int = 1, timeout_s: float = DEADLINE_S) -> Record:
        """Wait for so many requests in all; gives the last of them. This and all waits end in AssertionError."""
        await self.log.until(lambda: len(self.requests) >= count, f"{count} requests", timeout_s)
        return self.requests[count - 1]

    async def wait_cancelled(self, count: int = 1, timeout_s: float = DEADLINE_S) -> None:
        await self._wait_outcome("cancelled", count, timeout_s)

    async def wait_complete(self, count: int = 1, timeout_s: float = DEADLINE_S) -> None:
        await self._wait_outcome("complete", count, timeout_s)

    async def wait_paused(self, count: int = 1, timeout_s: float = DEADLINE_S) -> None:
        await self.log.until(lambda: sum(r.paused for r in self.requests) >= count, f"{count} paused", timeout_s)

    async def wait_tokens(self, count: int, timeout_s: float = DEADLINE_S) -> None:
        """Wait until so many tokens were sent over all requests."""
        await self.log.until(lambda: sum(r.tokens_sent for r in self.requests) >= count, f"{count} tokens", timeout_s)

    async def wait_connections(self, count: int, timeout_s: float = DEADLINE_S) -> None:
        """Wait until exactly so many connections are open."""
        await self.log.until(lambda: self.open_connections == count, f"{count} connections", timeout_s)

    async def _wait_outcome(self, outcome: str, count: int, timeout_s: float) -> None:
        await self.log.until(
            lambda: sum(r.outcome == outcome for r in self.requests) >= count, f"{count} {outcome}", timeout_s
        )

    # Answering.

    def _connect(self) -> Connection:
        self._connections = {connection for connection in self._connections if not connection.closed}
        connection = Connection(self.log, self.api_key, self._answer, lambda record: record.path.startswith("/_"))
        self._connections.add(connection)
        return connection

    async def _answer(self, record: Record) -> tuple[Response, Behaviour]:
        parts = urlsplit(record.path)
        path = unquote(parts.path)
        if path.startswith("/_"):
            return await self._steer(path, dict(parse_qsl(parts.query)), record), Behaviour()
        request = record.json if isinstance(record.json, dict) else {}
        behaviour = self._next_behaviour(path if record.method == "GET" else record.model)
        if behaviour.raw is not None:
            return Response(200, [], [Chunk(behaviour.raw)], raw=True), behaviour
        if behaviour.body is not None:
            return whole(behaviour.body, behaviour, status=behaviour.status or 200), behaviour
        if behaviour.error is not None and behaviour.error_at is None:
            return self._refusal(behaviour.error, request, behaviour), behaviour
        response = (
            self._listing(path) if record.method == "GET" else self._generate(path, request, behaviour, record.number)
        )
        response.status = behaviour.status or response.status
        return response, behaviour

    def _next_behaviour(self, key: str | None) -> Behaviour:
        for name in (key, None):
            if self._scripts.get(name) and not (name is None and _is_path(key)):
                return self._scripts[name].popleft()
        named = None if key is None else self._named.get(key, NAMED.get(key))
        return self._default if named is None and not _is_path(key) else named or Behaviour()

    def _refusal(self, shape: Shape, request: Json, behaviour: Behaviour, limit: int | None = None) -> Response:
        model, tokens = str(request.get("model")), count_prompt(request)
        status, body = error_body(shape, model=model, tokens=tokens, window=limit or self.context or 2048)
        return whole(body, behaviour, status=behaviour.status or status)

    def _generate(self, path: str, request: Json, behaviour: Behaviour, number: int) -> Response:
        model, tokens = str(request.get("model")), count_prompt(request)
        answer = plan(behaviour, self.flavour, request, number)
        if path in ("/v1/chat/completions", "/v1/completions"):
            if self.context is not None and tokens > self.context:
                return self._refusal(_CONTEXT_ERRORS[answer.flavour], request, behaviour)
            openai = OpenAiAnswer(answer, chat=path == "/v1/chat/completions")
            if request.get("stream"):
                return sse(openai.events(), behaviour, model)
            return whole(openai.whole(), behaviour, tokens=answer.completion_tokens)
        if path in ("/api/chat", "/api/generate"):
            if request.get("truncate") is False and tokens > window(request):
                return self._refusal("context_ollama", request, behaviour, window(request))
            ollama = OllamaAnswer(answer, chat=path == "/api/chat")
            if request.get("stream", True):
                return ndjson(ollama.events(), behaviour, model)
            return whole(ollama.whole(), behaviour, tokens=answer.completion_tokens)
        if path == "/v1/embeddings":
            return whole(embeddings_body(request), behaviour)
        if path == "/api/embed":
            return whole(embed_body(request), behaviour)
        if path == "/api/show":
            return whole(show_body(self.context or 131_072), behaviour)
        return whole({"error": "not found"}, behaviour, status=404)

    def _listing(self, path: str) -> Response:
        bodies: dict[str, Json] = {
            "/v1/models": models_body(self.models, self.context or 131_072),
            "/api/tags": tags_body(self.models),
            "/api/version": {"version": "0.40.2"},
            "/health": {"status": "ok"},
        }
        status = 200 if path in bodies else 404
        return whole(bodies.get(path, {"error": "not found"}), Behaviour(), status=status)

    async def _steer(self, path: str, query: dict[str, str], record: Record) -> Response:
        if path == "/_script":
            order = msgspec.convert(record.json, Order)
            if order.always is not None:
                self.always(order.always, order.model)
            self.script(*order.behaviours, model=order.model)
        elif path == "/_release":
            return whole({"released": self.release_now()}, Behaviour())
        elif path == "/_reset":
            self.reset()
        elif path == "/_wait":
            outcome, count, timeout_s = (
                query["outcome"],
                int(query.get("count", "1")),
                float(query.get("timeout_s", "5")),
            )
            try:
                await self.wait_paused(count, timeout_s) if outcome == "paused" else await self._wait_outcome(
                    outcome, count, timeout_s
                )
            except AssertionError as error:
                return whole({"error": str(error)}, Behaviour(), status=504)
        elif path != "/_log":
            return whole({"error": "not found"}, Behaviour(), status=404)
        log = {"open_connections": self.open_connections, "connections": self.log.connections}
        requests = [request.to_json() for request in self.requests]
        return whole(log | {"dropped": self.log.dropped, "requests": requests}, Behaviour())


def _is_path(key: str | None) -> bool:
    return key is not None and key.startswith("/")


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """What `POST /_script` takes."""

    behaviours: list[Behaviour] = []
    always: Behaviour | None = None
    model: str | None = None


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, help="0 for a free one, which is then printed")
    parser.add_argument("--api-key")
    parser.add_argument("--flavour", choices=["openai", "llama.cpp", "vllm"], default="openai")
    parser.add_argument("--context", type=int)
    options = parser.parse_args()
    key, context = options.api_key, options.context
    async with FakeUpstream(api_key=key, flavour=options.flavour, context=context, port=options.port) as up:
        print(up.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
