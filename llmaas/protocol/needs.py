"""What of a request only some engines can do. A target whose engine can't is passed over; where none can, the request is
refused with 400 and `param`: never dropped, because the answer would mean something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from llmaas.errors import InvalidRequest

Need = Literal[
    "n",
    "logit_bias",
    "logprobs_beside_tools",
    "logprobs_of_calls",
    "best_of",
    "echo",
    "suffix",
    "dimensions",
    "token_ids",
    "remote_images",
    "broken_arguments",
    "file",
    "input_audio",
    "video_url",
]
Needs = Mapping[Need, str]
"""Each with the `param` of its refusal: where in the request it stands."""

NO_NEEDS: Needs = {}
_WORDS: Mapping[Need, str] = {
    "logprobs_beside_tools": "The engine of this model gives no log probabilities beside 'tools'.",
    "logprobs_of_calls": "The engine of this model gives no log probabilities of a call that 'tool_choice' demands.",
    "token_ids": "The engine of this model takes text, not token ids.",
    "remote_images": "The engine of this model takes images as base64 `data:` URLs only.",
    "broken_arguments": "The arguments of a tool call must be a JSON object.",
    "file": "The engine of this model takes no parts of type `file`.",
    "input_audio": "The engine of this model takes no parts of type `input_audio`.",
    "video_url": "The engine of this model takes no parts of type `video_url`.",
}


def refusal(needs: Needs, unable: frozenset[Need]) -> InvalidRequest:
    """Says the first of the needs that can't be met."""
    need, param = next((need, param) for need, param in needs.items() if need in unable)
    return InvalidRequest(_WORDS.get(need, f"'{param}' is not supported by the engine of this model."), param=param)
