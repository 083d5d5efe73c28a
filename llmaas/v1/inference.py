"""Handlers of the routes that run models: decode, call the service, render what it could not do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from llmaas.domain.access import Caller
from llmaas.errors import ClientGone, InvalidRequest, LlmaasError, forget_frames
from llmaas.inference.call import Call
from llmaas.inference.service import InferenceService
from llmaas.protocol.decoding import decode
from llmaas.protocol.engine import given
from llmaas.protocol.requests import chat_decoder, completion_decoder, disguise_decoder, embedding_decoder
from llmaas.tasks import TaskSet
from llmaas.v1.reply import HttpReply
from llmaas.web.auth import Authenticator
from llmaas.web.requests import Request


class InferenceHandlers:
    def __init__(
        self,
        service: InferenceService,
        authenticator: Authenticator,
        tasks: TaskSet,
        *,
        max_body_bytes: int,
        ping_interval_s: float,
    ) -> None:
        self._service = service
        self._authenticator = authenticator
        self._tasks = tasks
        self._max_body_bytes = max_body_bytes
        self._ping_interval_s = ping_interval_s

    def chat(self, request: Request, caller: Caller | None) -> Awaitable[None]:
        return self._run(request, caller, "chatcmpl-", self._chat)

    def complete(self, request: Request, caller: Caller | None) -> Awaitable[None]:
        return self._run(request, caller, "cmpl-", self._complete)

    def embed(self, request: Request, caller: Caller | None) -> Awaitable[None]:
        return self._run(request, caller, "embd-", self._embed)

    def _chat(self, call: Call, reply: HttpReply) -> Awaitable[None]:
        return self._service.chat(call, decode(chat_decoder, call.body), reply)

    def _complete(self, call: Call, reply: HttpReply) -> Awaitable[None]:
        look = decode(disguise_decoder, call.body)
        if given(look.messages):
            if given(look.prompt):
                raise InvalidRequest("Either 'prompt' or 'messages' can be given, not both.", param="messages")
            return self._chat(call, reply)
        asked = decode(completion_decoder, call.body)
        if asked.prompt is None:
            raise InvalidRequest("Missing required parameter: 'prompt'.", param="prompt")
        return self._service.complete(call, asked, reply)

    def _embed(self, call: Call, reply: HttpReply) -> Awaitable[None]:
        return self._service.embed(call, decode(embedding_decoder, call.body), reply)

    async def _run(
        self, request: Request, caller: Caller | None, prefix: str, work: Callable[[Call, HttpReply], Awaitable[None]]
    ) -> None:
        assert caller is not None  # noqa: S101 - the route table asks for a key
        body = request.json_body_at_hand(self._max_body_bytes)
        if body is None:
            body = await request.json_body(self._max_body_bytes, caller.key.id)
            # The body may have taken minutes to arrive: a key that was revoked meanwhile runs nothing.
            caller = await self._authenticator.caller(request.bearer(), request.channel.address)
        call = Call(
            caller,
            prefix + request.uuid,
            request.request_id,
            body,
            request.headers.get(b"x-llmaas-explain") == b"1",
            request.started_ms,
            request.started_s,
        )
        reply = HttpReply(request, request.channel, self._tasks, self._ping_interval_s)
        reply.listen()
        try:
            await work(call, reply)
        except ClientGone:
            raise
        except LlmaasError as error:
            await reply.fail(error)
            forget_frames(error)
        finally:
            reply.close()
