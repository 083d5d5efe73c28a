"""From whatever engines send to one regular form."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from llmaas.errors import EngineFailed
from llmaas.protocol.answers import AnswerHead, WholeAnswer
from llmaas.protocol.engine import answer_decoder, says_something, texts_of
from llmaas.protocol.lenient import Halves, lenient_answer
from llmaas.protocol.pieces import Piece, Pieces


def fed(*chunks: dict[str, Any], choices: int = 1, think: bool = False) -> tuple[list[Piece], Pieces]:
    pieces = Pieces(choices=choices, split_thinking=think)
    out: list[Piece] = []
    for chunk in chunks:
        pieces.feed(answer_decoder.decode(msgspec.json.encode(chunk)), out)
    return out + pieces.finish(), pieces


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def call(arguments: Any = None, name: str | None = None, **fields: Any) -> dict[str, Any]:
    return delta(tool_calls=[{**fields, "function": {"name": name, "arguments": arguments}}])


def calls_of(pieces: list[Piece]) -> list[tuple[str, str, str]]:
    """Id, name and arguments of each call, put together as an SDK does it."""
    out: dict[int, list[str]] = {}
    for tool in [piece.tool for piece in pieces if piece.tool is not None]:
        parts = out.setdefault(tool.index, ["", "", ""])
        for at, text in enumerate((tool.id, tool.name, tool.arguments)):
            parts[at] += text or ""
    assert list(out) == list(range(len(out)))
    return [(parts[0], parts[1], parts[2]) for parts in out.values()]


END = delta(finish="tool_calls")
WHOLE = [("a", "f", '{"x":1}'), ("b", "g", "{}")]


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(
            [call('{"x"', "f", index=0, id="a"), call(":1}", index=0), call("{}", "g", index=1, id="b")], id="proper"
        ),
        pytest.param(
            [call('{"x"', "f", index=0, id="a"), call("{}", "g", index=1, id="b"), call(":1}", index=0)], id="mixed"
        ),
        pytest.param([call('{"x"', "f", id="a"), call(":1}"), call("{}", "g", id="b")], id="no index"),
        pytest.param(
            [call('{"x"', "f", id="a"), call(":1}", "f", id="a"), call("{}", "g", id="b")], id="repeated without index"
        ),
        pytest.param(
            [call('{"x"', "f", index=0, id="a"), call(":1}", "f", index=0, id="a"), call("{}", "g", index=1, id="b")],
            id="repeated",
        ),
        pytest.param([call({"x": 1}, "f", index=0, id="a"), call({}, "g", index=1, id="b")], id="objects"),
        pytest.param([call('{"x":1}', "f", index=3, id="a"), call("{}", "g", index=7, id="b")], id="wild indexes"),
        pytest.param(
            [call(None, "f", index=0, id="a"), call('{"x":1}', index=0), call("{}", "g", index=1, id="b")],
            id="null arguments",
        ),
        pytest.param(
            [
                *(call("", index=0, id="a"), call('{"x"', "f", index=0), call(":1}", index=0)),
                *(call("", index=1, id="b"), call("{}", "g", index=1)),
            ],
            id="late names",
        ),
        pytest.param(
            [
                *(call("", index=0), call("", index=1)),
                *(call("{}", "g", index=1, id="b"), call('{"x":1}', "f", index=0, id="a")),
            ],
            id="late names and ids, in another order",
        ),
        pytest.param(
            [call('{"x"', id="a"), call("", "f"), call(":1}"), call("", id="b"), call("{}", "g")],
            id="late names without index",
        ),
        pytest.param(
            [
                delta(tool_calls=[{"index": 0, "id": "a"}]),
                call('{"x":1}', "f", index=0),
                call("{}", "g", index=1, id="b"),
            ],
            id="no function at first",
        ),
    ],
)
def test_tool_calls_become_regular(chunks: list[dict[str, Any]]) -> None:
    pieces, seen = fed(*chunks, END)
    assert calls_of(pieces) == WHOLE
    assert pieces[-1] == Piece(0, finish="tool_calls")
    assert seen.finish_reason() == "tool_calls"


def test_calls_without_ids_get_some() -> None:
    pieces, _ = fed(call("{}", "f"), call("{}", "f"), END)
    made = calls_of(pieces)
    assert [(name, arguments) for _, name, arguments in made] == [("f", "{}"), ("f", "{}")]
    assert len({id_ for id_, _, _ in made}) == 2
    assert all(id_.startswith("call_") for id_, _, _ in made)


@pytest.mark.parametrize(
    ("said", "calls", "told"),
    [
        ("stop", False, "stop"),
        ("stop", True, "tool_calls"),
        ("tool_calls", False, "stop"),
        ("tool_calls", True, "tool_calls"),
        ("length", True, "length"),
        ("content_filter", False, "content_filter"),
        ("eos", False, "stop"),
        ("max_tokens", True, "length"),
    ],
)
def test_finish_reasons(said: str, calls: bool, told: str) -> None:
    first = call("{}", "f", index=0, id="a") if calls else delta(content="a")
    pieces, _ = fed(first, delta(finish=said))
    assert [piece.finish for piece in pieces if piece.finish] == [told]


def test_the_finish_comes_alone_and_last_and_nothing_is_lost_after_it() -> None:
    pieces, seen = fed(
        delta(role="assistant", content="a", finish="stop"), delta(content="after the end", finish="length")
    )
    assert pieces == [Piece(0, content="a"), Piece(0, content="after the end"), Piece(0, finish="length")]
    assert seen.finished


@pytest.mark.parametrize("word", ["null", "None", "", " ", "not_finished", "FINISH_REASON_UNSPECIFIED"])
def test_a_reason_that_is_none_ends_nothing(word: str) -> None:
    pieces, seen = fed(*[delta(content=text, finish=word) for text in "abc"], delta(finish="stop"))
    assert pieces == [*[Piece(0, content=text) for text in "abc"], Piece(0, finish="stop")]
    _, seen = fed(delta(content="a", finish=word))
    assert not seen.finished


@pytest.mark.parametrize(
    ("word", "works"),
    [
        *[
            (word, False)
            for word in ("error", "abort", "ABORTED", "cancelled", "insufficient_system_resource", "unload")
        ],
        *[(word, True) for word in ("banana", "quota-of-the-moon", "5")],
    ],
)
def test_a_reason_that_is_a_failure_or_unknown_is_the_engines_failure(word: str, works: bool) -> None:
    with pytest.raises(EngineFailed) as failed:
        fed(delta(content="a"), delta(finish=word))
    assert failed.value.hint is not None
    assert word in failed.value.hint, "it is logged"
    assert failed.value.answers is works


def test_without_a_finish_it_is_not_finished() -> None:
    _, seen = fed(delta(content="a"))
    assert not seen.finished
    _, seen = fed(delta(0, "stop", content="a"), delta(1, content="b"), choices=2)
    assert not seen.finished
    assert not Pieces(1, split_thinking=False).finished


def test_fewer_choices_than_were_asked_for_are_a_failure() -> None:
    with pytest.raises(EngineFailed) as failed:
        fed(delta(0, "stop", content="a"), choices=2)
    assert failed.value.answers


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([call("{}", "f", index=0, id="a"), call("{}", "g", index=0, id="b")], id="ids and names"),
        pytest.param([call("{}", "f", index=0), call("{}", "g", index=0)], id="names alone"),
        pytest.param(
            [call("{", "f", index=0, id="a"), call("}", index=0), call("{", "g", index=0, id="b"), call("}", index=0)],
            id="in fragments",
        ),
        pytest.param(
            [
                call("", "f", index=0, id="a"),
                call("", "g", index=0, id="b"),
                call("{}", "f", index=0, id="a"),
                call("{}", "g", index=0, id="b"),
            ],
            id="mixed",
        ),
        pytest.param([call("{}", "f", index=0, id="same"), call("{}", "g", index=1, id="same")], id="one id for both"),
        pytest.param([call("{}", "f", index=0, id=""), call("{}", "g", index=1, id="")], id="empty ids"),
    ],
)
def test_calls_that_share_an_index_or_an_id_are_two(chunks: list[dict[str, Any]]) -> None:
    made = calls_of(fed(*chunks, END)[0])
    assert [(name, arguments) for _, name, arguments in made] == [("f", "{}"), ("g", "{}")]
    assert len({id_ for id_, _, _ in made}) == 2


def test_the_same_tool_twice_with_one_index_is_two_calls() -> None:
    made = calls_of(fed(call('{"a":1}', "f", index=0), call('{"a":2}', "f", index=0), END)[0])
    assert [arguments for _, _, arguments in made] == ['{"a":1}', '{"a":2}']


def test_a_name_that_is_repeated_with_each_fragment_begins_no_call() -> None:
    made = calls_of(fed(call('{"a"', "f", index=0), call(":1}", "f", index=0), END)[0])
    assert [(name, arguments) for _, name, arguments in made] == [("f", '{"a":1}')]


def test_a_call_is_told_when_its_name_is_known_and_from_then_on_as_it_comes() -> None:
    pieces, told = Pieces(choices=1, split_thinking=False), []
    for chunk in (call('{"x"', index=0, id="a"), call("", "f", index=0), call(":1}", index=0)):
        out: list[Piece] = []
        pieces.feed(answer_decoder.decode(msgspec.json.encode(chunk)), out)
        told.append([(piece.tool.id, piece.tool.name, piece.tool.arguments) for piece in out if piece.tool])
    assert told == [[], [("a", "f", '{"x"')], [(None, None, ":1}")]]
    assert pieces.seen == 3


@pytest.mark.parametrize("fragments", [1, 1000])
def test_a_call_without_a_name_does_not_wait_for_ever(fragments: int) -> None:
    chunks = [call("1", index=0, id="a") for _ in range(fragments)]
    pieces, out = Pieces(choices=1, split_thinking=False), list[Piece]()
    for chunk in chunks:
        pieces.feed(answer_decoder.decode(msgspec.json.encode(chunk)), out)
    assert bool(out) is (fragments > 20), "not held beyond its first pieces"
    pieces.feed(answer_decoder.decode(msgspec.json.encode(call("{}", "g", index=1, id="b"))), out)
    pieces.feed(answer_decoder.decode(msgspec.json.encode(END)), out)
    assert calls_of(out + pieces.finish()) == [("a", "", "1" * fragments), ("b", "g", "{}")]


def test_calls_behind_one_without_a_name_do_not_wait_for_ever() -> None:
    chunks = [call("", index=0, id="a"), *(call("1", "g", index=1, id="b") for _ in range(100))]
    pieces, out = Pieces(choices=1, split_thinking=False), list[Piece]()
    for chunk in chunks:
        pieces.feed(answer_decoder.decode(msgspec.json.encode(chunk)), out)
    assert sum(len(piece.tool.arguments) for piece in out if piece.tool) == 100


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_both_names_of_reasoning(field: str) -> None:
    pieces, seen = fed({"choices": [{"index": 0, "delta": {field: "why"}}]}, delta(content="a", finish="stop"))
    assert pieces[0] == Piece(0, reasoning="why")
    assert (seen.seen, seen.seen_reasoning) == (2, 1)


def test_think_tags_over_pieces() -> None:
    chunks = [delta(content=text) for text in ("<th", "ink>wh", "y</thi", "nk>", "answer")]
    pieces, seen = fed(*chunks, delta(finish="stop"), think=True)
    assert "".join(piece.reasoning or "" for piece in pieces) == "why"
    assert "".join(piece.content or "" for piece in pieces) == "answer"
    assert seen.seen == 5


def test_what_is_held_back_comes_at_the_end() -> None:
    pieces, _ = fed(delta(content="<thi"), delta(finish="stop"), think=True)
    assert pieces == [Piece(0, content="<thi"), Piece(0, finish="stop")]


def test_empty_deltas_are_nothing() -> None:
    pieces, seen = fed(delta(role="assistant", content=""), delta(content=None, tool_calls=None), delta(finish="stop"))
    assert pieces == [Piece(0, finish="stop")]
    assert seen.seen == 0


@pytest.mark.parametrize("index", [-1, 1, 2**40])
def test_choices_that_nobody_asked_for(index: int) -> None:
    with pytest.raises(EngineFailed):
        fed(delta(index, content="a"))


def test_an_answer_with_too_many_tool_calls_is_cut() -> None:
    out, pieces = fed(*[call("{}", "f", index=number, id=str(number)) for number in range(200)], END)
    assert (len(calls_of(out)), out[-1].finish, pieces.full) == (128, "length", True)


@pytest.mark.parametrize(
    "bad", [{"choices": 5}, {"choices": [5]}, {"choices": [{"delta": {"content": 5}}]}, [], 5, None]
)
def test_wrong_shapes_do_not_pass_the_strict_look(bad: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        answer_decoder.decode(msgspec.json.encode(bad))


def test_arguments_that_are_nested_without_end_are_passed_on() -> None:
    deep = "[" * 200_000
    out, _ = fed(call(deep, "f", index=0), call("{}", "f", index=0), END)
    assert [arguments for _, _, arguments in calls_of(out)] == [deep + "{}"]


def whole(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop", **fields} for text in texts]}


@pytest.mark.parametrize("fields", [{}, {"index": 0}], ids=str)
def test_a_whole_choice_too_many_is_a_failure(fields: dict[str, Any]) -> None:
    with pytest.raises(EngineFailed):
        fed(whole("a", "b", **fields))


def test_choices_without_an_index_have_their_place_in_the_list() -> None:
    pieces, _ = fed(whole("a", "b"), choices=2)
    assert [(piece.index, piece.content) for piece in pieces if piece.content] == [(0, "a"), (1, "b")]


def test_the_older_word_for_calls_is_told_as_the_newer() -> None:
    pieces, _ = fed(call("{}", "f", id="c"), delta(finish="function_call"))
    assert pieces[-1].finish == "tool_calls"
    pieces, _ = fed(delta(content="hi"), delta(finish="function_call"))
    assert pieces[-1].finish == "stop"


def older(**fields: Any) -> dict[str, Any]:
    return delta(function_call=fields)


@pytest.mark.parametrize(
    "chunks",
    [
        [older(name="f", arguments='{"x":1}')],
        [older(name="f", arguments=""), older(arguments='{"x"'), older(name=None, arguments=":1}")],
        [older(name="f"), older(arguments={"x": 1})],
        [delta(content="", function_call={"name": "f", "arguments": '{"x":1}'}, tool_calls=[])],
        [{"choices": [{"message": {"content": None, "function_call": {"name": "f", "arguments": '{"x":1}'}}}]}],
        [
            delta(
                function_call={"name": "f", "arguments": '{"x":1}'},
                tool_calls=[{"function": {"name": "f", "arguments": '{"x":1}'}}],
            )
        ],
        [older(name="f", arguments='{"x":1}'), older(name="", arguments=""), older()],
    ],
    ids=["at once", "in fragments", "an object", "beside no calls", "whole", "in both forms", "with empty ones"],
)
@pytest.mark.parametrize("word", ["function_call", "stop"])
def test_a_call_in_the_older_form_is_a_call_and_counted(chunks: list[dict[str, Any]], word: str) -> None:
    pieces, seen = fed(*chunks, delta(finish=word))
    assert [(name, arguments) for _, name, arguments in calls_of(pieces)] == [("f", '{"x":1}')]
    assert (pieces[-1].finish, seen.seen > 0) == ("tool_calls", True)


def test_text_beside_an_empty_call_in_the_older_form_is_text() -> None:
    pieces, seen = fed(delta(content="a", function_call={"name": "", "arguments": ""}), delta(finish="stop"))
    assert (pieces, seen.seen) == ([Piece(0, content="a"), Piece(0, finish="stop")], 1)


def test_a_whole_text_with_a_call_in_the_older_form_is_no_plain_text() -> None:
    message = {"content": "a", "function_call": {"name": "f", "arguments": "{}"}}
    answer = answer_decoder.decode(msgspec.json.encode({"choices": [{"message": message, "finish_reason": "stop"}]}))
    assert Pieces(choices=1, split_thinking=False).plain_text(answer) is None


def test_several_deltas_of_one_choice_in_one_event_are_told_one_after_the_other() -> None:
    """As client libraries do it, which put the deltas of a choice together by its index."""
    both = {"choices": [{"index": 0, "delta": {"content": text}} for text in "ab"]}
    last = {"choices": [{"index": 0, "delta": {"content": "c"}}, {"index": 0, "delta": {}, "finish_reason": "stop"}]}
    pieces, seen = fed(both, last)
    assert pieces == [*[Piece(0, content=text) for text in "abc"], Piece(0, finish="stop")]
    assert seen.seen == 3


def test_choices_after_those_that_were_asked_for_are_left_out() -> None:
    pieces, out = Pieces(choices=1, split_thinking=False), list[Piece]()
    for chunk in (delta(content="a", finish="stop"), delta(1, content="more"), delta(1, finish="stop")):
        pieces.feed(answer_decoder.decode(msgspec.json.encode(chunk)), out)
    assert (out, pieces.seen, pieces.extra) == ([Piece(0, content="a")], 1, True)
    with pytest.raises(EngineFailed):
        pieces.finish()
    assert pieces.cut("stop") == [Piece(0, finish="stop")]


@pytest.mark.parametrize(("error", "fails"), [({}, False), ("", False), (None, False), ({"message": "boom"}, True)])
def test_an_empty_error_within_a_choice_is_none(error: Any, fails: bool) -> None:
    chunk = {"choices": [{"index": 0, "delta": {}, "error": error}]}
    if fails:
        with pytest.raises(EngineFailed):
            fed(delta(content="a"), chunk, delta(finish="stop"))
    else:
        assert fed(delta(content="a"), chunk, delta(finish="stop"))[0][-1].finish == "stop"


def test_A08_a_name_that_comes_with_each_fragment_has_none_of_them_read_again() -> None:
    pieces, out, fragment = Pieces(choices=1, split_thinking=False), list[Piece](), "}" * 2000
    again = answer_decoder.decode(msgspec.json.encode(call(fragment, "f", index=0)))
    before_s = time.process_time()
    pieces.feed(answer_decoder.decode(msgspec.json.encode(call('{"a":"', "f", index=0))), out)
    for _ in range(20_000):
        pieces.feed(again, out)
    pieces.feed(answer_decoder.decode(msgspec.json.encode(call('"}', "f", index=0))), out)
    pieces.feed(answer_decoder.decode(msgspec.json.encode(call("{}", "f", index=0))), out)
    assert time.process_time() - before_s < 5
    whole = WholeAnswer(AnswerHead("a", "chat", 0, "m", {}))
    whole.add(out + pieces.finish())
    assert time.process_time() - before_s < 10
    said = json.loads(whole.body(msgspec.Raw(b"{}"), None))["choices"][0]["message"]["tool_calls"]
    assert [one["function"]["arguments"] for one in said] == ['{"a":"' + fragment * 20_000 + '"}', "{}"]


@pytest.mark.parametrize(
    ("fragments", "calls"),
    [
        (('{"a":1}', '{"a":1}'), ['{"a":1}', '{"a":1}']),
        (("{", '"a":"}"', "}", "{}"), ['{"a":"}"}', "{}"]),
        (("{}", " \n", "{}"), ["{}", " \n{}"]),
        (("{}x", "{}"), ["{}x{}"]),
        (("{b}", "{}"), ["{b}{}"]),
    ],
    ids=str,
)
def test_a_name_begins_a_call_where_the_arguments_before_it_are_whole(
    fragments: tuple[str, ...], calls: list[str]
) -> None:
    out, _ = fed(*(call(one, "f", index=0) for one in fragments))
    assert [arguments for _, _, arguments in calls_of(out)] == calls


@pytest.mark.parametrize(
    "beside", [{"delta": {}}, {"delta": {"role": "assistant", "content": ""}}], ids=["empty", "role"]
)
@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"message": {"role": "assistant", "content": "hi"}}, ("hi", None, None)),
        ({"message": {"reasoning_content": "why"}}, (None, "why", None)),
        ({"message": {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}}, (None, None, "f")),
        ({"message": {"function_call": {"name": "f", "arguments": "{}"}}}, (None, None, "f")),
        ({"text": "hi"}, ("hi", None, None)),
        ({"text": "hi", "message": {}}, ("hi", None, None)),
    ],
    ids=["text", "reasoning", "call", "older call", "prompt's text", "prompt's text and a message"],
)
def test_what_stands_beside_an_empty_delta_is_said(beside: Any, said: Any, told: Any) -> None:
    chunk = {"choices": [{"index": 0, **beside, **said, "finish_reason": "stop"}]}
    made, pieces = fed(chunk)
    piece, end = made
    assert (piece.content, piece.reasoning, None if piece.tool is None else piece.tool.name) == told
    assert (end.finish, pieces.seen) == ("tool_calls" if told[2] else "stop", 1)
    answer = answer_decoder.decode(msgspec.json.encode({"choices": [{**beside, **said}]}))
    assert says_something(answer)
    assert "".join(texts_of((answer.choices or [])[0]))


def test_what_a_delta_says_is_not_said_twice() -> None:
    pieces, _ = fed({"choices": [{"delta": {"content": "b"}, "message": {"content": "ab"}, "finish_reason": "stop"}]})
    assert [piece.content for piece in pieces] == ["b", None]
    with pytest.raises(EngineFailed, match="gave its answer up"):
        fed({"choices": [{"delta": {}, "message": {}, "error": {"message": "boom"}}]})


def test_halves_of_a_character_are_joined_in_a_message_beside_an_empty_delta() -> None:
    halves = Halves()
    texts = []
    for half in (b"\\ud83d", b"\\ude42"):
        answer = halves.join(lenient_answer(b'{"choices":[{"delta":{},"message":{"content":"%b"}}]}' % half))
        texts += [choice.message.content if choice.message else None for choice in answer.choices or ()]
    assert texts == ["", "\U0001f642"]


def test_likelihoods_of_a_token_without_text_are_passed_on() -> None:
    likely = {"tokens": ["</s>"], "token_logprobs": [-0.1], "top_logprobs": [{"</s>": -0.1}]}
    chunk = {"choices": [{"text": "", "logprobs": likely, "finish_reason": "length"}]}
    assert says_something(answer_decoder.decode(msgspec.json.encode({"choices": [{"text": "", "logprobs": likely}]})))
    first, end = fed(chunk)[0]
    assert (first.content, msgspec.json.decode(first.logprobs or b"null")) == (None, likely)
    assert end.finish == "length"
    with pytest.raises(EngineFailed, match="gave its answer up"):
        fed({"choices": [{"text": "", "logprobs": likely, "error": {"message": "boom"}}]})


@pytest.mark.parametrize("bare", [{}, []])
def test_an_empty_object_of_arguments_is_none_where_their_text_follows(bare: Any) -> None:
    pieces, _ = fed(call(bare, "f", index=0, id="a"), call('{"x"', index=0), call(":1}", index=0), END)
    assert calls_of(pieces) == [("a", "f", '{"x":1}')]
    pieces, _ = fed(call(bare, "f", index=0, id="a"), END)
    assert calls_of(pieces) == [("a", "f", "{}")]
    pieces, _ = fed(call(bare, "f", index=0), call(bare, "f", index=0), END)
    assert [one[1:] for one in calls_of(pieces)] == [("f", "{}"), ("f", "{}")]
