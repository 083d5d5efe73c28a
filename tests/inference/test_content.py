"""Our own estimate of a prompt: of what the model reads, whatever else the request's bytes are."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmaas.inference.content import prompt_tokens
from llmaas.protocol.requests import chat_decoder, completion_decoder, embedding_decoder

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_500_000}}


def of_chat(content: Any, *, before: bytes = b"", **more: Any) -> int:
    body = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": content}], **more})
    return prompt_tokens(chat_decoder.decode(body[:1] + before + body[1:]))


def test_B15_a_prompt_is_the_text_of_its_messages() -> None:
    assert of_chat("x" * 400) == 100
    assert of_chat([{"type": "text", "text": "x" * 400}]) == 100
    assert of_chat("日" * 400) == 300
    assert of_chat("x" * 400, before=b" " * 200_000) == 100, "blanks of the JSON"
    assert of_chat("x" * 400, metadata={"dropped": "x" * 100_000}) == 100, "a member that is dropped"
    assert of_chat("\x01" * 400) == 100, "six bytes each in JSON"


def test_B15_a_picture_is_a_fixed_figure() -> None:
    assert of_chat([PICTURE]) == 1024
    assert of_chat([PICTURE, {"type": "text", "text": "x" * 40}, PICTURE]) == 2 * 1024 + 10


def test_B15_tools_are_read_where_they_may_be_called() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 400, "parameters": {"type": "object"}}}
    assert 100 < of_chat("x", tools=[tool]) < 130
    assert of_chat("x", tools=[tool], tool_choice="none") == 1


def test_B15_what_was_said_and_called_before_is_read_too() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "ffff", "arguments": "x" * 36}}
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "x" * 40},
    ]
    body = {"model": "m", "messages": turns}
    assert prompt_tokens(chat_decoder.decode(msgspec.json.encode(body))) == 20


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [("x" * 40, 10), (["x" * 40, "y" * 40], 20), (list(range(100)), 100), ([[1, 2], [3]], 3)],
    ids=["text", "texts", "ids", "lists of ids"],
)
def test_B15_prompts_and_inputs(prompt: Any, tokens: int) -> None:
    body = msgspec.json.encode({"model": "m", "prompt": prompt, "input": prompt})
    assert prompt_tokens(completion_decoder.decode(body)) == tokens
    assert prompt_tokens(embedding_decoder.decode(body)) == tokens
