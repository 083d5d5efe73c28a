"""What callers send. Unknown fields are dropped by decoding; a null option counts as absent (OpenAI's own behaviour).

The same structs are encoded for engines that speak OpenAI's language: what is not a field here never reaches an engine.
Those of every request are not the collector's business (`gc=False`), as in `engine`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from llmaas.errors import InvalidRequest
from llmaas.protocol.engine import NOTHING

Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
ModelName = Annotated[str, Meta(min_length=1, max_length=512)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Choices = Annotated[int, Meta(ge=1, le=128)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Stop = str | Annotated[list[str], Meta(max_length=4)]
Prompt = str | list[str | int | list[int]]
EndUser = Annotated[str, Meta(max_length=512)]
LogitBias = Annotated[dict[str, float], Meta(max_length=4096)]
_MOST_PROMPTS = 2048
_MOST_MESSAGES = 10_000
_MOST_TOOLS = 1024
_MOST_PARTS = 4096
_MOST_CALLS = 1024
MOST_IN_MESSAGES: Final = 32_768
"""Parts and tool calls of all messages. These bounds are far beyond what clients send: each entry is work in the event loop."""
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class StreamOptions(Struct, omit_defaults=True):
    include_usage: bool | None = None


class TextPart(Struct, tag="text", tag_field="type"):
    text: str


class ImageUrl(Struct, omit_defaults=True):
    url: str
    detail: str | None = None


class ImagePart(Struct, tag="image_url", tag_field="type"):
    image_url: ImageUrl


class RefusalPart(Struct, tag="refusal", tag_field="type"):
    refusal: str


class InputAudio(Struct):
    """`data` is base64; `format` such as `wav` or `mp3`."""

    data: str
    format: str


class AudioPart(Struct, tag="input_audio", tag_field="type"):
    input_audio: InputAudio


class FileData(Struct, omit_defaults=True):
    """`file_data` is a `data:` URL."""

    file_data: str | None = None
    filename: str | None = None


class FilePart(Struct, tag="file", tag_field="type"):
    file: FileData


class VideoUrl(Struct):
    url: str


class VideoPart(Struct, tag="video_url", tag_field="type"):
    video_url: VideoUrl


Part = TextPart | ImagePart | RefusalPart | AudioPart | FilePart | VideoPart


class FunctionCall(Struct):
    name: str
    arguments: str


class ToolCall(Struct):
    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class Message(Struct, omit_defaults=True, gc=False):
    """`content` null is kept as null: an assistant's turn of tool calls only has it so. `reasoning` is another name of
    `reasoning_content`, `function_call` the older form of `tool_calls`.
    """

    role: Role
    content: str | Annotated[list[Part], Meta(max_length=_MOST_PARTS)] | UnsetType | None = UNSET
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=_MOST_CALLS)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    reasoning: Any = None
    function_call: FunctionCall | None = None


FunctionName = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[a-zA-Z0-9_-]+$(?!\n)")]


class FunctionDefinition(Struct, omit_defaults=True):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    function: FunctionDefinition
    type: Literal["function"] = "function"


class NamedFunction(Struct):
    name: str


class NamedToolChoice(Struct):
    function: NamedFunction
    type: Literal["function"] = "function"


class TextFormat(Struct, tag="text", tag_field="type"):
    pass


class JsonObjectFormat(Struct, tag="json_object", tag_field="type", omit_defaults=True):
    schema: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.schema is not None:
            raise ValueError("a schema needs the type 'json_schema', and stands in 'json_schema.schema'")


class JsonSchema(Struct, omit_defaults=True):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, tag="json_schema", tag_field="type"):
    json_schema: JsonSchema


class ChatRequest(Struct, omit_defaults=True, kw_only=True, gc=False):
    """`POST /v1/chat/completions`."""

    model: ModelName
    messages: Annotated[list[Message], Meta(min_length=1, max_length=_MOST_MESSAGES)]
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: Choices | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=_MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    reasoning_effort: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: EndUser | None = None
    functions: Annotated[list[FunctionDefinition], Meta(max_length=_MOST_TOOLS)] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    verbosity: str | None = None
    prediction: dict[str, Any] | None = None
    modalities: Annotated[list[str], Meta(max_length=16)] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None


class CompletionRequest(Struct, omit_defaults=True, kw_only=True, gc=False):
    """`POST /v1/completions`. `prompt`: a string, strings, token ids, or lists of token ids."""

    model: ModelName
    prompt: Prompt | None = None
    max_tokens: Positive | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: Choices | None = None
    best_of: Choices | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: EndUser | None = None


class EmbeddingRequest(Struct, omit_defaults=True, kw_only=True):
    """`POST /v1/embeddings`. `input`: a string, strings, token ids, or lists of token ids."""

    model: ModelName
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None
    user: EndUser | None = None


class Disguise(Struct):
    """A first look at a completion request, which may be a chat in disguise."""

    messages: msgspec.Raw = NOTHING
    prompt: msgspec.Raw = NOTHING


class Texts(Struct):
    """A first look at a large request: the members that may hold much."""

    messages: msgspec.Raw = NOTHING
    prompt: msgspec.Raw = NOTHING
    input: msgspec.Raw = NOTHING


chat_decoder = msgspec.json.Decoder(ChatRequest)
completion_decoder = msgspec.json.Decoder(CompletionRequest)
embedding_decoder = msgspec.json.Decoder(EmbeddingRequest)
disguise_decoder = msgspec.json.Decoder(Disguise)
texts_decoder = msgspec.json.Decoder(Texts)


def prompt_list(prompt: Prompt | None, name: str = "prompt") -> list[str | list[int]]:
    """The prompts that the parameter of that name holds: itself, or each of its strings or lists of token ids. Raises
    InvalidRequest.
    """
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise InvalidRequest(f"'{name}' must not be empty.", param=name)
    kinds = {type(item) for item in prompt}
    if len(kinds) != 1:
        raise InvalidRequest(f"'{name}' must hold either strings, token ids or lists of token ids.", param=name)
    if kinds == {int}:
        prompt = [[item for item in prompt if isinstance(item, int)]]
    items = [item for item in prompt if not isinstance(item, int)]
    if len(items) > _MOST_PROMPTS:
        raise InvalidRequest(f"One request can hold at most {_MOST_PROMPTS} prompts.", param=name)
    if any(isinstance(item, list) and (not item or min(item) < 0) for item in items):
        raise InvalidRequest("Lists of token ids must hold whole numbers from 0 on and not be empty.", param=name)
    return items


HINTS = frozenset({"verbosity", "prediction"})
"""Chat options that only some engines know and that the answer's meaning does not hang on."""
_OURS = (
    frozenset(ChatRequest.__struct_fields__) - HINTS
    | frozenset(CompletionRequest.__struct_fields__)
    | frozenset(EmbeddingRequest.__struct_fields__)
)
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def extra_members(body: bytes, names: frozenset[str]) -> dict[str, msgspec.Raw]:
    """Members of a request that a provider takes as they are; never one that we know and every engine gets."""
    if not names:
        return {}
    return {k: v for k, v in _members_decoder.decode(body).items() if k in names and k not in _OURS}
