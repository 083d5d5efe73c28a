"""One turn of a conversation that is not plain text: checked, and brought into the form that every engine reads.

What we send callers (calls without arguments, refusals, reasoning) has to be taken back as part of the next request, and so has
what older programs write (`function_call`, the role `function`).
"""

from __future__ import annotations

import msgspec

from llmaas.domain.models import Model
from llmaas.errors import InvalidRequest
from llmaas.protocol.needs import Need
from llmaas.protocol.requests import (
    MOST_IN_MESSAGES,
    AudioPart,
    FilePart,
    ImagePart,
    Message,
    Part,
    RefusalPart,
    TextPart,
    ToolCall,
    VideoPart,
)

PLAIN_ROLES = frozenset({"user", "system", "developer"})
"""A turn of these whose content is a string has nothing to be looked at."""
_TOKENS_OF_IMAGE = 16_384
"""The most that engines make of one, whose tokens follow its area and not its bytes, which are no text."""
_TOKENS_OF_FILE = 131_072
"""The same for a document or a film, as long as the model's window does not bound it."""
_CAPABILITIES: dict[type[Part], tuple[Need, str]] = {
    AudioPart: ("input_audio", "audio"),
    FilePart: ("file", "files"),
    VideoPart: ("video_url", "video"),
}


class Turns:
    """The conversation of one request. `needs`: what of it not every engine takes; `tokens`: the most that its pictures, sounds
    and files take besides their bytes, which are counted as tokens already: of pictures less than nothing, when they are large files.
    """

    def __init__(self, model: Model, needs: dict[Need, str], *, remote_images: bool) -> None:
        self._model = model
        self._needs = needs
        self._remote = remote_images
        self._functions: dict[str, str] = {}
        self._entries = 0
        self.tokens = 0

    def settle(self, message: Message, position: int) -> None:
        """Mend it in place. Raises InvalidRequest."""
        where = f"messages[{position}]"
        if message.role == "assistant":
            self._settle_answer(message, position)
        elif message.role == "function":
            # The call that it answers was given an id when its turn came by.
            call_id = self._functions.get(message.name or "")
            if call_id is not None:
                message.role, message.tool_call_id = "tool", call_id
        elif message.role == "tool" and not message.tool_call_id:
            raise InvalidRequest("A tool's message needs 'tool_call_id'.", param=f"{where}.tool_call_id")
        content = message.content
        if isinstance(content, list):
            self._count(len(content))
            message.content = [self._part(part, f"{where}.content[{at}]") for at, part in enumerate(content)]
        elif not isinstance(content, str) and not message.tool_calls:
            raise InvalidRequest("A message needs content.", param=f"{where}.content")

    def _settle_answer(self, message: Message, position: int) -> None:
        if message.reasoning_content is None and isinstance(message.reasoning, str):
            message.reasoning_content = message.reasoning
        message.reasoning = None
        if message.function_call is not None and not message.tool_calls:
            call_id = f"call_{position}"
            self._functions[message.function_call.name] = call_id
            message.tool_calls = [ToolCall(call_id, message.function_call)]
        message.function_call = None
        message.tool_calls = message.tool_calls or None
        self._count(len(message.tool_calls or ()))
        for at, call in enumerate(message.tool_calls or ()):
            function = call.function
            function.arguments = function.arguments.strip() or "{}"
            if not _is_object(function.arguments):
                self._needs["broken_arguments"] = f"messages[{position}].tool_calls[{at}].function.arguments"
        if not isinstance(message.content, str | list) and not message.tool_calls:
            said = message.refusal
            if said or message.content is None or message.reasoning_content:
                message.content = said or ""
        elif message.refusal:
            _add_refusal(message, message.refusal)
        message.refusal = None

    def _count(self, entries: int) -> None:
        self._entries += entries
        if self._entries > MOST_IN_MESSAGES:
            raise InvalidRequest(
                f"All messages together can hold at most {MOST_IN_MESSAGES} parts and tool calls.", param="messages"
            )

    def _part(self, part: Part, where: str) -> Part:
        if isinstance(part, RefusalPart):
            return TextPart(part.refusal)
        if isinstance(part, ImagePart):
            self.tokens += _TOKENS_OF_IMAGE - len(part.image_url.url)
            self._address(part.image_url.url, where, "Images")
        elif not isinstance(part, TextPart):
            need, capability = _CAPABILITIES[type(part)]
            if capability not in self._model.capabilities:
                raise InvalidRequest(f"The model `{self._model.id}` takes no parts of type `{need}`.", param=where)
            self._needs.setdefault(need, where)
            if isinstance(part, VideoPart):
                self.tokens += _TOKENS_OF_FILE
                self._address(part.video_url.url, where, "Films")
            elif isinstance(part, FilePart):
                self.tokens += _TOKENS_OF_FILE
                if not part.file.file_data:
                    raise InvalidRequest("A file must be given as 'file_data'.", param=f"{where}.file.file_data")
        return part

    def _address(self, url: str, where: str, what: str) -> None:
        if url.startswith("data:") and ";base64," in url[:256]:
            return
        if not self._remote and not url.startswith("data:"):
            raise InvalidRequest(
                f"{what} must be given as `data:` URLs; this service fetches no addresses.",
                param=where.rpartition("[")[0],
            )
        self._needs.setdefault("remote_images", where)


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, RecursionError):
        return False


def _add_refusal(message: Message, refusal: str) -> None:
    """Put it behind what else was said in the turn: engines know no other place for it."""
    content = message.content
    if isinstance(content, list):
        content.append(TextPart(refusal))
    else:
        message.content = f"{content}\n{refusal}" if content else refusal
