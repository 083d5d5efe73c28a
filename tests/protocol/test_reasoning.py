"""`<think>` at the start of content, in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmaas.protocol.reasoning import ThinkSplitter


def split_up(pieces: list[str]) -> tuple[str, str]:
    splitter = ThinkSplitter()
    parts = [splitter.feed(piece) for piece in pieces] + [splitter.finish()]
    return "".join(reasoning for reasoning, _ in parts), "".join(content for _, content in parts)


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("", "", ""),
        ("plain", "", "plain"),
        ("<think>why</think>answer", "why", "answer"),
        ("\n<think>\nwhy\n</think>\n\nanswer", "\nwhy\n", "answer"),
        ("<think></think>answer", "", "answer"),
        ("<think>never ends", "never ends", ""),
        ("<think>a</thin", "a</thin", ""),
        ("<thin", "", "<thin"),
        ("<thinking>not that</thinking>", "", "<thinking>not that</thinking>"),
        ("text <think>not at the start</think>", "", "text <think>not at the start</think>"),
        ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
        ("<think>a < b </ c</think>d", "a < b </ c", "d"),
        ("  spaces", "", "  spaces"),
        ("<think>señal 日本</think>🙂", "señal 日本", "🙂"),
    ],
)
def test_what_is_reasoning(text: str, reasoning: str, content: str) -> None:
    assert split_up([text]) == (reasoning, content)
    assert split_up(list(text)) == (reasoning, content)


_parts = st.sampled_from(["<think>", "</think>", "<", "</", "think", ">", " ", "\n", "a", "日", "</thin", "<thi"])


@given(st.lists(_parts, max_size=12).map("".join), st.lists(st.integers(1, 9), min_size=1, max_size=12))
@example("<think>a</think>\n\nb", [17, 1])
def test_any_pieces_give_the_same_result(text: str, sizes: list[int]) -> None:
    pieces, at, turn = [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        pieces.append(text[at : at + size])
        at, turn = at + size, turn + 1
    assert split_up(pieces) == split_up([text])


def test_A08_blanks_without_end_are_the_answer() -> None:
    splitter = ThinkSplitter()
    held = [splitter.feed(" ") for _ in range(1_000)]
    assert held == [("", "")] * 1_000
    assert splitter.feed("\n") == ("", " " * 1_000 + "\n")
    assert splitter.feed("<think>") == ("", "<think>")
