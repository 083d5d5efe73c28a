"""Log probabilities in the two forms that callers know: chat's list of tokens, and the older parallel lists of completions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import msgspec

from llmaas.protocol.lenient import read_json, to_raw

_json = msgspec.json.Encoder()
_NULL = msgspec.Raw(b"null")


def chat_form(raw: msgspec.Raw) -> msgspec.Raw:
    """`{"content": […], "refusal": null}`, whether or not the engine gave the second member; null for what is none."""
    value, raw = _read(raw)
    if not isinstance(value, dict):
        return _NULL
    content = value.get("content")
    if content is not None and not _are_tokens(content):
        return _NULL
    return raw if "refusal" in value else _written({**value, "refusal": None})


def completion_form(raw: msgspec.Raw, offset: int) -> msgspec.Raw:
    """`{"tokens", "token_logprobs", "top_logprobs", "text_offset"}`, also from engines (llama.cpp) that give chat's form.

    `offset`: characters of the choice's text before these tokens.
    """
    value, raw = _read(raw)
    if not isinstance(value, dict):
        return _NULL
    if not isinstance(value.get("content"), list):
        return raw if _is_older(value) else _NULL
    out: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for entry in value["content"]:
        if not isinstance(entry, dict):
            continue
        token = str(entry.get("token", ""))
        out["tokens"].append(token)
        out["token_logprobs"].append(entry.get("logprob"))
        out["top_logprobs"].append(_by_token(entry.get("top_logprobs")))
        out["text_offset"].append(offset)
        offset += len(token)
    return _written(out)


def _by_token(likely: object) -> dict[str, Any]:
    """The alternatives of one token, which some give in the older form already."""
    if isinstance(likely, dict):
        return likely
    entries = likely if isinstance(likely, list) else []
    return {str(t.get("token", "")): t.get("logprob") for t in entries if isinstance(t, dict)}


def _are_tokens(value: object, *, with_others: bool = True) -> bool:
    """Whether it is a list of tokens with their log probabilities, which are null where they were no number; `with_others`: and with
    others in their place.
    """
    return isinstance(value, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("token", ""), str)
        and _is_number(entry.get("logprob"))
        and (
            not with_others
            or entry.get("top_logprobs") is None
            or _are_tokens(entry["top_logprobs"], with_others=False)
        )
        for entry in value
    )


def _is_older(value: dict[str, Any]) -> bool:
    """Whether each member of the parallel lists is a list or null, with numbers where there have to be."""
    lists = [value.get(name) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")]
    return all(entries is None or isinstance(entries, list) for entries in lists) and all(
        map(_is_number, value.get("token_logprobs") or ())
    )


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


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
    return _written(whole)


def _written(value: dict[str, Any]) -> msgspec.Raw:
    try:
        return msgspec.Raw(_json.encode(value))
    except RecursionError:
        return _NULL  # nested as deeply as it could just be read


def _decode(raw: msgspec.Raw) -> Any:
    return _read(raw)[0]


def _read(raw: msgspec.Raw) -> tuple[Any, msgspec.Raw]:
    """The values and their JSON, which is another one than `raw` when that was not valid in all its parts."""
    try:
        return msgspec.json.decode(raw), raw
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = read_json(raw)
    mended = to_raw(value)
    return msgspec.json.decode(mended), mended
