"""Where a JSON value ends, told while its text comes in pieces: none of it is read twice, and no text but brackets and quotes counts."""

from __future__ import annotations

import re

from msgspec import Struct

_OUTSIDE = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\]')


class Brackets(Struct):
    """`ended`: the value is over, with the bracket that closes its first one; or, where it has none, before one that closes nothing."""

    ended: bool = False
    _depth: int = 0
    _in_string: bool = False
    _escaped: bool = False

    def take(self, text: str) -> int:
        """How many characters of the next piece belong to the value."""
        position, end = 0, len(text)
        while position < end and not self.ended:
            if self._escaped:
                self._escaped = False
                position += 1
                continue
            found = (_IN_STRING if self._in_string else _OUTSIDE).search(text, position)
            if found is None:
                return end
            position = found.end()
            match found[0]:
                case '"':
                    self._in_string = not self._in_string
                case "\\":
                    self._escaped = True
                case "{" | "[":
                    self._depth += 1
                case _ if not self._depth:
                    self.ended = True
                    return found.start()
                case _:
                    self._depth -= 1
                    self.ended = not self._depth
        return position
