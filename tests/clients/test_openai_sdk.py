"""openai-python as users have it: the present version and a 1.x pin, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import openai
import pytest

from tests.clients.openai_calls import ASYNC, SYNC, run_async, run_sync
from tests.fakes.behaviour import Behaviour
from tests.gateway import ROOT
from tests.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

OLD_PYTHON = ROOT / ".venv-openai1" / "bin" / "python"


@pytest.fixture
def ready(service: Service) -> Service:
    """An answer that `parse` can read: one token for each piece of it, so that a short limit cuts it."""
    service.fake().always(Behaviour(pieces=('{"good":', "true}"), tokens=2), model="fake-verdict")
    return service


@pytest.mark.parametrize("call", SYNC, ids=lambda call: call.__name__)
async def test_sync(ready: Service, call: Callable[[openai.OpenAI], None]) -> None:
    await asyncio.to_thread(run_sync, ready.base_url, ready.key, [call])


@pytest.mark.parametrize("call", ASYNC, ids=lambda call: call.__name__)
async def test_async(ready: Service, call: Callable[[openai.AsyncOpenAI], Awaitable[None]]) -> None:
    await run_async(ready.base_url, ready.key, [call])


async def test_the_first_major_version_does_it_all_too(ready: Service) -> None:
    if not OLD_PYTHON.exists():
        pytest.skip("NO .venv-openai1: openai-python 1.x is not tested; scripts/test makes the environment")
    script = Path(__file__).with_name("openai_calls.py")
    process = await asyncio.create_subprocess_exec(
        OLD_PYTHON,
        "-P",
        script,
        ready.base_url,
        ready.key,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert out.decode().startswith("1.")
    assert out.decode().split()[1] == str(len(SYNC) + len(ASYNC))


async def test_the_present_version_is_a_third_one(ready: Service) -> None:
    assert openai.__version__.startswith("3.")


async def test_a_stream_that_the_user_leaves_is_cancelled(ready: Service) -> None:
    async with openai.AsyncOpenAI(base_url=ready.base_url, api_key=ready.key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="fake-endless", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        async with stream:
            async for _ in stream:
                break
        await ready.fake().wait_cancelled(timeout_s=1)


async def test_retries_of_the_sdk_are_told_when_to_come_back(ready: Service) -> None:
    ready.fake().script(Behaviour(error="loading", headers=(("retry-after", "1"),)), model="plain")
    async with openai.AsyncOpenAI(base_url=ready.base_url, api_key=ready.key, max_retries=1) as client:
        answer = await client.chat.completions.create(model="plain", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content
    assert len(ready.fake().requests) == 2
