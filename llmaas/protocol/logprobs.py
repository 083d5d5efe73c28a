"""Log probabilities in the two forms that callers know: chat's list of tokens, and the older parallel lists of completions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import msgspec

from llmaas.errors import EngineFailed

_json = msgspec.json.Encoder()


def chat_form(raw: msgspec.Raw) -> msgspec.Raw:
    """`{"content": […], "refusal": null}`, whether or not the engine gave the second member."""
    value = _decode(raw)
    if not isinstance(value, dict) or "refusal" in value:
        return raw
    return msgspec.Raw(_json.encode({**value, "refusal": None}))


def completion_form(raw: msgspec.Raw, offset: int) -> msgspec.Raw:
    """`{"tokens", "token_logprobs", "top_logprobs", "text_offset"}`, also from engines (llama.cpp) that give chat's form.

    `offset`: characters of the choice's text before these tokens.
    """
    value = _decode(raw)
    if not isinstance(value, dict) or not isinstance(value.get("content"), list):
        return raw
    out: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for entry in value["content"]:
        if not isinstance(entry, dict):
            continue
        token = str(entry.get("token", ""))
        likely = entry.get("top_logprobs") or []
        out["tokens"].append(token)
        out["token_logprobs"].append(entry.get("logprob"))
        out["top_logprobs"].append({str(t.get("token", "")): t.get("logprob") for t in likely if isinstance(t, dict)})
        out["text_offset"].append(offset)
        offset += len(token)
    return msgspec.Raw(_json.encode(out))


def joined(parts: Sequence[msgspec.Raw]) -> msgspec.Raw:
    """Those of a whole answer from those of its pieces: the lists of each member one after the other."""
    if len(parts) == 1:
        return parts[0]
    whole: dict[str, list[Any]] = {}
    for value in map(_decode, parts):
        for name, entries in value.items() if isinstance(value, dict) else ():
            if isinstance(entries, list):
                whole.setdefault(name, []).extend(entries)
    if "text_offset" in whole:
        lengths = [len(str(token)) for token in whole.get("tokens", ())]
        whole["text_offset"] = list(accumulate(lengths, initial=0))[:-1]  # those of a piece may begin at the piece
    return msgspec.Raw(_json.encode(whole))


def _decode(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineFailed("The engine sent log probabilities that can't be read.", hint=str(error)) from error
