"""Handlers of the routes that run models: decode, call the service, render what it could not do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from llmaas.api.reply import HttpReply
from llmaas.domain.access import Caller
from llmaas.errors import ClientGone, InvalidRequest, LlmaasError
from llmaas.inference.call import Call
from llmaas.inference.service import InferenceService
from llmaas.protocol.decoding import decode
from llmaas.protocol.engine import given
from llmaas.protocol.requests import chat_decoder, completion_decoder, disguise_decoder, embedding_decoder
from llmaas.tasks import TaskSet
from llmaas.web.requests import Request


class InferenceHandlers:
    def __init__(
        self, service: InferenceService, tasks: TaskSet, *, max_body_bytes: int, ping_interval_s: float
    ) -> None:
        self._service = service
        self._tasks = tasks
        self._max_body_bytes = max_body_bytes
        self._ping_interval_s = ping_interval_s

    async def chat(self, request: Request, caller: Caller | None) -> None:
        body = await request.json_body(self._max_body_bytes)
        asked = decode(chat_decoder, body)
        call = self._call(request, caller, "chatcmpl-", body)
        await self._run(request, lambda reply: self._service.chat(call, asked, reply))

    async def complete(self, request: Request, caller: Caller | None) -> None:
        body = await request.json_body(self._max_body_bytes)
        if given(decode(disguise_decoder, body).messages):
            chat = decode(chat_decoder, body)
            call = self._call(request, caller, "cmpl-", body)
            await self._run(request, lambda reply: self._service.chat(call, chat, reply))
            return
        asked = decode(completion_decoder, body)
        if asked.prompt is None:
            raise InvalidRequest("Missing required parameter: 'prompt'.", param="prompt")
        call = self._call(request, caller, "cmpl-", body)
        await self._run(request, lambda reply: self._service.complete(call, asked, reply))

    async def embed(self, request: Request, caller: Caller | None) -> None:
        body = await request.json_body(self._max_body_bytes)
        asked = decode(embedding_decoder, body)
        call = self._call(request, caller, "embd-", body)
        await self._run(request, lambda reply: self._service.embed(call, asked, reply))

    def _call(self, request: Request, caller: Caller | None, prefix: str, body: bytes) -> Call:
        assert caller is not None  # noqa: S101 - the route table asks for a key
        return Call(
            caller,
            prefix + request.uuid,
            request.request_id,
            body,
            request.headers.get(b"x-llmaas-explain") == b"1",
            request.started_ms,
            request.started_s,
        )

    async def _run(self, request: Request, work: Callable[[HttpReply], Awaitable[None]]) -> None:
        reply = HttpReply(request, self._tasks, self._ping_interval_s)
        try:
            await work(reply)
        except ClientGone:
            return
        except LlmaasError as error:
            await reply.fail(error)
        finally:
            reply.close()
