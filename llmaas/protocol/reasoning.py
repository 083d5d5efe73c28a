"""Moves an engine's `<think>…</think>` at the start of content to where reasoning belongs, in pieces of any size."""

from __future__ import annotations

_OPEN = "<think>"
_CLOSE = "</think>"
_MOST_BLANKS = 1_000
"""What comes behind so many is the answer: they are looked at anew with each piece."""


class ThinkSplitter:
    """One for each choice. Text after the first thing that is not reasoning passes untouched."""

    def __init__(self) -> None:
        self._state = "start"
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        """(reasoning, content) that this piece settles; what may be part of a tag is held back."""
        if self._state == "content":
            return "", text
        if self._state == "gap":
            return "", self._leave(text.lstrip("\n"))
        self._held += text
        if self._state == "start":
            stripped = self._held.lstrip()
            is_open = stripped.startswith(_OPEN)
            if not is_open and _OPEN.startswith(stripped) and len(self._held) <= _MOST_BLANKS:
                return "", ""
            if not is_open:
                return "", self._leave(self._held)
            self._state, self._held = "thinking", stripped[len(_OPEN) :]
        return self._think()

    def finish(self) -> tuple[str, str]:
        """What was held back when the answer ended."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "thinking" else ("", held)

    def _think(self) -> tuple[str, str]:
        before, tag, after = self._held.partition(_CLOSE)
        if tag:
            self._state = "gap"
            return before, self._leave(after.lstrip("\n"))
        keep = next((n for n in range(len(_CLOSE) - 1, 0, -1) if before.endswith(_CLOSE[:n])), 0)
        cut = len(before) - keep
        self._held = before[cut:]
        return before[:cut], ""

    def _leave(self, text: str) -> str:
        """The newlines between reasoning and content belong to neither, in however many pieces they come."""
        self._held = ""
        if text:
            self._state = "content"
        return text
