"""Nothing that can fail stands between a settlement and the last byte: it is only waited for, and what is rendered is sent."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from llmaas.inference.relay import Relay
from llmaas.inference.service import InferenceService

SENDS = {"end", "whole"}


def _calls(node: ast.AST) -> list[str]:
    found = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
    return [func.attr if isinstance(func, ast.Attribute) else ast.unparse(func) for func in found]


def _blocks(node: ast.AST) -> list[list[ast.stmt]]:
    blocks = [getattr(inner, "body", None) for inner in ast.walk(node)]
    return [block for block in blocks if isinstance(block, list)]


@pytest.mark.parametrize("function", [Relay.stream, Relay.whole, InferenceService.embed], ids=lambda f: f.__qualname__)
def test_B16_after_the_settlement_there_is_only_sending(function: Callable[..., Any]) -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for block in _blocks(tree):
        for position, statement in enumerate(block):
            if isinstance(statement, ast.Expr) and "settle" in _calls(statement):
                after = block[position + 1 :]
                assert [call for rest in after for call in _calls(rest)] in [[send] for send in SENDS]
                assert len(after) == 1
                return
    pytest.fail("it settles nothing")
