"""What users do with openai-python, for the version that is installed here and for the 1.x pin: run as a program with
BASE_URL and KEY it makes every call, synchronously and asynchronously. Nothing but the SDK is imported."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pydantic

USER: Any = [{"role": "user", "content": "one two three"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": "get_weather", "strict": True, "parameters": {"type": "object", "properties": {}}},
    }
]
TEXT = "hello " * 5


class Verdict(pydantic.BaseModel):
    good: bool


def completions_of(client: Any) -> Any:
    """The place of `parse` and `stream`, which was in beta in 1.x."""
    return client.chat.completions if hasattr(client.chat.completions, "stream") else client.beta.chat.completions


def check_answer(answer: Any) -> None:
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 5, 8)
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    assert answer.backend["engine_type"] == "openai"


def check_chunks(chunks: list[Any], *, usage: bool) -> None:
    if usage:
        *chunks, last = chunks
        assert last.choices == []
        assert last.usage.total_tokens == 8
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", *[None] * (len(chunks) - 1)]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [*[None] * (len(chunks) - 1), "stop"]
    assert {chunk.usage for chunk in chunks} == {None}


def check_calls(message: Any) -> None:
    assert [call.function.name for call in message.tool_calls] == ["get_weather", "get_time"]
    assert [call.function.arguments for call in message.tool_calls] == ['{"city":"Málaga"}', '{"zone":"Europe/Madrid"}']
    assert {call.type for call in message.tool_calls} == {"function"}


def check_errors(error: openai.APIStatusError, status: int, code: str | None) -> None:
    assert (error.status_code, error.code) == (status, code)
    assert error.request_id
    assert isinstance(error.body, dict)
    assert {"message", "type", "param", "code"} <= set(error.body)


FAILURES: list[tuple[str, dict[str, Any], type[openai.APIStatusError], int, str]] = [
    ("nope", {}, openai.NotFoundError, 404, "model_not_found"),
    ("fake-context-llamacpp", {}, openai.BadRequestError, 400, "context_length_exceeded"),
    ("fake-500", {}, openai.InternalServerError, 502, "engine_failed"),
    ("fake-429", {}, openai.InternalServerError, 503, "engine_busy"),
    ("nowhere", {}, openai.InternalServerError, 503, "no_backend"),
]


def chat(client: openai.OpenAI) -> None:
    check_answer(client.chat.completions.create(model="plain", messages=USER))
    limited = client.chat.completions.create(model="plain", messages=USER, max_completion_tokens=2, stop=None, n=2)
    assert [choice.finish_reason for choice in limited.choices] == ["length", "length"]


def streams(client: openai.OpenAI) -> None:
    check_chunks(list(client.chat.completions.create(model="plain", messages=USER, stream=True)), usage=False)
    options: Any = {"include_usage": True}
    made = client.chat.completions.create(model="plain", messages=USER, stream=True, stream_options=options)
    check_chunks(list(made), usage=True)


def tools(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake-tools", messages=USER, tools=TOOLS)
    check_calls(answer.choices[0].message)
    assert answer.choices[0].finish_reason == "tool_calls"
    with completions_of(client).stream(model="fake-tools-repeated", messages=USER, tools=TOOLS) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    check_calls(final.choices[0].message)
    assert final.choices[0].message.role == "assistant"


def parsing(client: openai.OpenAI) -> None:
    answer = completions_of(client).parse(model="fake-verdict", messages=USER, response_format=Verdict)
    assert answer.choices[0].message.parsed == Verdict(good=True)
    with completions_of(client).stream(model="fake-verdict", messages=USER, response_format=Verdict) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Verdict(good=True)
    try:
        completions_of(client).parse(model="fake-verdict", messages=USER, response_format=Verdict, max_tokens=1)
    except openai.LengthFinishReasonError:
        pass
    else:
        raise AssertionError("a cut answer was parsed")


def prompts(client: openai.OpenAI) -> None:
    forms: list[tuple[Any, int, int]] = [("a b", 1, 2), (["a b", "c"], 2, 3), ([1, 2, 3], 1, 3), ([[1, 2], [3]], 2, 3)]
    for prompt, count, tokens in forms:
        answer = client.completions.create(model="plain", prompt=prompt)
        assert [choice.text for choice in answer.choices] == [TEXT] * count
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == tokens
    parts = list(client.completions.create(model="plain", prompt="a", stream=True))
    assert "".join(part.choices[0].text for part in parts) == TEXT


def embeddings(client: openai.OpenAI) -> None:
    default = client.embeddings.create(model="embed", input=["a b", "c"])
    numbers = client.embeddings.create(model="embed", input=["a b", "c"], encoding_format="float")
    assert [item.embedding for item in default.data] == [item.embedding for item in numbers.data]
    assert {len(item.embedding) for item in default.data} == {8}
    assert (default.usage.prompt_tokens, default.usage.total_tokens) == (3, 3)


def models(client: openai.OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert {"granite3.3:8b", "vllm/fake-tools"} <= listed
    for name in ("granite3.3:8b", "vllm/fake-tools"):
        assert client.models.retrieve(name).id == name
    try:
        client.models.retrieve("vllm/nope")
    except openai.NotFoundError as error:
        check_errors(error, 404, "model_not_found")
    else:
        raise AssertionError("an unknown model was found")


def errors(client: openai.OpenAI) -> None:
    for model, more, kind, status, code in FAILURES:
        for stream in (False, True):
            try:
                client.chat.completions.create(model=model, messages=USER, stream=stream, **more)
            except kind as error:
                check_errors(error, status, code)
            else:
                raise AssertionError(f"{model} gave an answer")
    try:
        client.with_options(api_key="llmaas_wrong").models.list()
    except openai.AuthenticationError as error:
        check_errors(error, 401, "invalid_api_key")
    else:
        raise AssertionError("a wrong key was taken")
    try:
        client.chat.completions.create(model="plain", messages=USER, temperature=5)
    except openai.BadRequestError as error:
        check_errors(error, 400, None)
        assert error.param == "temperature"
    else:
        raise AssertionError("a wrong temperature was taken")


def broken_streams(client: openai.OpenAI) -> None:
    for model in ("fake-error-later", "fake-cut-rst", "fake-cut-line"):
        text = ""
        try:
            for chunk in client.chat.completions.create(model=model, messages=USER, stream=True):
                text += chunk.choices[0].delta.content or ""
        except openai.APIError as error:
            assert error.code == "engine_failed"
        else:
            raise AssertionError("a broken stream was taken for whole")
        assert text


def raw_headers(client: openai.OpenAI) -> None:
    response = client.chat.completions.with_raw_response.create(model="plain", messages=USER)
    answer: Any = response.parse()
    assert response.headers["id"] == answer.id
    assert '"machine_name":"ma01"' in response.headers["backend"]
    assert response.headers["x-request-id"] == answer._request_id  # noqa: SLF001 - its documented name
    with client.chat.completions.with_streaming_response.create(model="plain", messages=USER, stream=True) as streamed:
        assert streamed.headers["id"].startswith("chatcmpl-")
        assert "engine_type" in streamed.headers["backend"]
        assert sum(line.startswith("data: ") for line in streamed.iter_lines()) == 8


async def achat(client: openai.AsyncOpenAI) -> None:
    check_answer(await client.chat.completions.create(model="plain", messages=USER))
    many = await asyncio.gather(*[client.chat.completions.create(model="plain", messages=USER) for _ in range(10)])
    assert len({answer.id for answer in many}) == 10


async def astreams(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="plain", messages=USER, stream=True)
    check_chunks([chunk async for chunk in stream], usage=False)
    options: Any = {"include_usage": True}
    stream = await client.chat.completions.create(model="plain", messages=USER, stream=True, stream_options=options)
    check_chunks([chunk async for chunk in stream], usage=True)
    async with completions_of(client).stream(model="fake-tools", messages=USER, tools=TOOLS) as helper:
        check_calls((await helper.get_final_completion()).choices[0].message)


async def aothers(client: openai.AsyncOpenAI) -> None:
    assert (await client.completions.create(model="plain", prompt="a")).choices[0].text == TEXT
    assert len((await client.embeddings.create(model="embed", input="a")).data[0].embedding) == 8
    assert "granite3.3:8b" in [model.id async for model in client.models.list()]
    assert (await client.models.retrieve("vllm/fake-tools")).id == "vllm/fake-tools"
    parsed = await completions_of(client).parse(model="fake-verdict", messages=USER, response_format=Verdict)
    assert parsed.choices[0].message.parsed == Verdict(good=True)


async def aerrors(client: openai.AsyncOpenAI) -> None:
    for model, more, kind, status, code in FAILURES:
        try:
            await client.chat.completions.create(model=model, messages=USER, **more)
        except kind as error:
            check_errors(error, status, code)
        else:
            raise AssertionError(f"{model} gave an answer")


SYNC: list[Callable[[openai.OpenAI], None]] = [
    *(chat, streams, tools, parsing, prompts, embeddings, models, errors, broken_streams, raw_headers)
]
ASYNC: list[Callable[[openai.AsyncOpenAI], Awaitable[None]]] = [achat, astreams, aothers, aerrors]


async def run_async(base_url: str, key: str, calls: list[Callable[[openai.AsyncOpenAI], Awaitable[None]]]) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        for call in calls:
            await call(client)


def run_sync(base_url: str, key: str, calls: list[Callable[[openai.OpenAI], None]]) -> None:
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        for call in calls:
            call(client)


if __name__ == "__main__":
    run_sync(sys.argv[1], sys.argv[2], SYNC)
    asyncio.run(run_async(sys.argv[1], sys.argv[2], ASYNC))
    print(openai.__version__, len(SYNC) + len(ASYNC))
