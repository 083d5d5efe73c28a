"""What a request gives a model to read: measured only where an engine does not tell how many tokens that was.

The bytes of a request hold more than that: the blanks of its JSON, members that are dropped, pictures as base64.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from llmaas.protocol.requests import (
    AudioPart,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    FilePart,
    ImagePart,
    Message,
    Part,
    Prompt,
    RefusalPart,
    TextPart,
    VideoPart,
)

_BYTES_PER_TOKEN = 4
_TOKENS_OF_PART: Mapping[type[Part], int] = {ImagePart: 1024, AudioPart: 1024, FilePart: 4096, VideoPart: 8192}
"""Of one of usual size. Engines follow areas and lengths, which are not known here."""
_json = msgspec.json.Encoder()


def tokens_of_bytes(size: int) -> int:
    """Our estimate for so many bytes of UTF-8: some four to a token, whether they are English, Cyrillic or Chinese."""
    return -(-size // _BYTES_PER_TOKEN)


def tokens_of_text(text: str) -> int:
    return tokens_of_bytes(_size(text))


class _Content(Struct):
    text_bytes: int = 0
    token_ids: int = 0
    part_tokens: int = 0


def prompt_tokens(request: ChatRequest | CompletionRequest | EmbeddingRequest) -> int:
    """Our estimate of its prompt: the text of messages and tools, a fixed figure for each picture, sound or file, one for each token id."""
    content = _Content()
    if isinstance(request, ChatRequest):
        for message in request.messages:
            _add_message(content, message)
        if request.tools and request.tool_choice != "none":
            content.text_bytes += len(_json.encode([tool.function for tool in request.tools]))
    elif isinstance(request, CompletionRequest):
        _add_prompt(content, request.prompt or "")
        content.text_bytes += _size(request.suffix)
    else:
        _add_prompt(content, request.input)
    return tokens_of_bytes(content.text_bytes) + content.token_ids + content.part_tokens


def _add_message(content: _Content, message: Message) -> None:
    said = message.content
    if isinstance(said, str):
        content.text_bytes += _size(said)
    elif isinstance(said, list):
        for part in said:
            if isinstance(part, TextPart | RefusalPart):
                content.text_bytes += _size(part.text if isinstance(part, TextPart) else part.refusal)
            else:
                content.part_tokens += _TOKENS_OF_PART[type(part)]
    content.text_bytes += _size(message.reasoning_content) + _size(message.refusal) + _size(message.name)
    for call in message.tool_calls or ():
        content.text_bytes += _size(call.function.name) + _size(call.function.arguments)


def _add_prompt(content: _Content, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        content.text_bytes += _size(prompt)
        return
    for item in prompt:
        if isinstance(item, str):
            content.text_bytes += _size(item)
        else:
            content.token_ids += 1 if isinstance(item, int) else len(item)


def _size(text: str | None) -> int:
    return len(text.encode("utf-8", "surrogatepass")) if text else 0
