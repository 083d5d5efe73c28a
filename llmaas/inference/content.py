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
from llmaas.protocol.usage import size_of, tokens_of_bytes

_TOKENS_OF_PART: Mapping[type[Part], int] = {ImagePart: 1024, AudioPart: 1024, FilePart: 4096, VideoPart: 8192}
"""Of one of usual size. Engines follow areas and lengths, which are not known here."""
_json = msgspec.json.Encoder()


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
        content.text_bytes += size_of(request.suffix)
    else:
        _add_prompt(content, request.input)
    return tokens_of_bytes(content.text_bytes) + content.token_ids + content.part_tokens


def _add_message(content: _Content, message: Message) -> None:
    said = message.content
    if isinstance(said, str):
        content.text_bytes += size_of(said)
    elif isinstance(said, list):
        for part in said:
            if isinstance(part, TextPart | RefusalPart):
                content.text_bytes += size_of(part.text if isinstance(part, TextPart) else part.refusal)
            else:
                content.part_tokens += _TOKENS_OF_PART[type(part)]
    content.text_bytes += size_of(message.reasoning_content) + size_of(message.refusal) + size_of(message.name)
    for call in message.tool_calls or ():
        content.text_bytes += size_of(call.function.name) + size_of(call.function.arguments)


def _add_prompt(content: _Content, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        content.text_bytes += size_of(prompt)
        return
    for item in prompt:
        if isinstance(item, str):
            content.text_bytes += size_of(item)
        else:
            content.token_ids += 1 if isinstance(item, int) else len(item)
