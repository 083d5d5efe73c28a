"""What must hold among declarations, and what one fleet is compared with another."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from llmaas.domain.declarations import declare, describe
from llmaas.domain.fleet import Change, Fleet, changes, check
from llmaas.domain.models import Backend, Deployment, Lifecycle, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.tiers import Tier

TIER = Tier("t", requests_per_minute=10)
PROVIDER = Provider("p", ProviderKind.VLLM)
BACKEND = Backend("b", "p", "http://b:1/v1", "b", "vllm")


def model(model_id: str = "m", *aliases: str, **values: Any) -> Model:
    return Model(model_id, ModelKind.CHAT, 0, aliases, **values)


def fleet(**values: Any) -> Fleet:
    whole = Fleet((TIER,), (PROVIDER,), (BACKEND,), (model(),), (Deployment("m", "b", "root"),))
    return dataclasses.replace(whole, **values)


def messages(checked: Fleet) -> list[str]:
    return [problem.message for problem in check(checked)]


def test_a_whole_fleet_has_no_problems() -> None:
    assert check(fleet()) == []
    assert check(Fleet()) == []


def test_duplicates_are_found_in_every_noun() -> None:
    doubled = fleet(
        tiers=(TIER, TIER),
        providers=(PROVIDER, PROVIDER),
        backends=(BACKEND, BACKEND),
        models=(model(), model()),
        deployments=(Deployment("m", "b", "x"), Deployment("m", "b", "y")),
    )
    found = [(p.noun, p.index) for p in check(doubled)]
    assert found == [("tier", 1), ("provider", 1), ("backend", 1), ("model", 1), ("deployment", 1)]


def test_dangling_references_are_found() -> None:
    dangling = fleet(
        backends=(BACKEND, dataclasses.replace(BACKEND, id="c", provider_id="q")),
        deployments=(Deployment("n", "b", "x"), Deployment("m", "d", "x")),
    )
    assert messages(dangling) == [
        "backend `c`: there is no provider `q`",
        "deployment: there is no model `n`",
        "deployment: there is no backend `d`",
    ]


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ((model("a"), model("A")), ["model `a` differs from `A` in case only"]),
        ((model("a"), model("b", "A")), ["model `b`: alias `A` is the id of another model"]),
        ((model("a", "x"), model("b", "X")), ["model `b`: alias `X` belongs to `a` already"]),
        ((model("a", "a", "A"),), []),
        (
            (model("a", lifecycle=Lifecycle(successor="z")),),
            ["model `a`: there is no successor `z`"],
        ),
        ((model("a", lifecycle=Lifecycle(successor="a")),), ["model `a`: its successors lead back to it"]),
        (
            (
                model("a", lifecycle=Lifecycle(successor="b")),
                model("b", lifecycle=Lifecycle(successor="c")),
                model("c", lifecycle=Lifecycle(successor="b")),
            ),
            ["model `b`: its successors lead back to it", "model `c`: its successors lead back to it"],
        ),
        ((model("a", lifecycle=Lifecycle(phase="retired", successor="b")), model("b")), []),
    ],
)
def test_clashing_names_and_circles_are_found(models: tuple[Model, ...], expected: list[str]) -> None:
    assert messages(Fleet(models=models)) == expected


def test_a_backend_has_an_address_unless_it_is_embedded() -> None:
    without = dataclasses.replace(BACKEND, base_url="")
    embedded = dataclasses.replace(PROVIDER, kind=ProviderKind.EMBEDDED)
    assert messages(fleet(backends=(without,))) == ["backend `b` lacks a base_url"]
    assert messages(fleet(providers=(embedded,))) == ["backend `b` is embedded, so it has no base_url"]
    assert messages(fleet(providers=(embedded,), backends=(without,))) == []


def test_changes_add_before_they_remove_and_leave_nothing_dangling() -> None:
    other = Provider("q", ProviderKind.OLLAMA)
    moved = fleet(
        providers=(other,),
        backends=(dataclasses.replace(BACKEND, provider_id="q"),),
        models=(),
        deployments=(),
    )
    assert changes(fleet(), fleet()) == []
    assert changes(fleet(), moved) == [
        Change("add", "provider", "q"),
        Change("change", "backend", "b"),
        Change("remove", "deployment", "m@b"),
        Change("remove", "model", "m"),
        Change("remove", "provider", "p"),
    ]


def test_a_merge_puts_the_newer_over_the_older_by_id() -> None:
    newer = Fleet(tiers=(Tier("t", requests_per_minute=20), Tier("u")))
    assert fleet().merged_with(newer) == fleet(tiers=newer.tiers)
    assert Fleet().merged_with(newer) == newer


def test_an_empty_table_lacks_what_it_must_have() -> None:
    root: dict[str, object] = {"tiers": [{}], "providers": [{}], "backends": [{}], "models": [{}], "deployments": [{}]}
    _, mistakes = declare(root, Fleet())
    assert [(m.path, m.message) for m in mistakes] == [
        (("providers", 0, "id"), '[[providers]] lacks "id"'),
        (
            ("providers", 0, "kind"),
            '[[providers]] lacks "kind": one of embedded, llama.cpp, ollama, openai, vllm',
        ),
        (("tiers", 0, "id"), '[[tiers]] lacks "id"'),
        (("backends", 0, "id"), '[[backends]] lacks "id"'),
        (("backends", 0, "provider"), '[[backends]] lacks "provider"'),
        (("models", 0, "id"), '[[models]] lacks "id"'),
        (("deployments", 0, "model"), '[[deployments]] lacks "model"'),
        (("deployments", 0, "backend"), '[[deployments]] lacks "backend"'),
    ]


def test_what_follows_from_a_mistake_is_not_told_again() -> None:
    root = {
        "providers": [{"id": "p", "kind": "vlmm"}],
        "backends": [{"id": "b", "provider": "p", "base_url": 7}],
        "models": [{"id": " m"}],
        "deployments": [{"model": " m", "backend": "b"}, {"model": 3, "backend": "b"}],
    }
    _, mistakes = declare(root, Fleet())
    assert [m.path for m in mistakes] == [
        ("providers", 0, "kind"),
        ("backends", 0, "base_url"),
        ("models", 0, "id"),
        ("deployments", 0, "model"),
        ("deployments", 1, "model"),
    ]


def test_references_may_lead_to_what_is_there_already() -> None:
    root: dict[str, object] = {
        "backends": [{"id": "c", "provider": "p", "base_url": "http://c/v1"}],
        "deployments": [{"model": "m", "backend": "c"}],
    }
    declared, mistakes = declare(root, fleet())
    assert mistakes == []
    assert declared.backends[0].engine_type == "vllm"
    _, mistakes = declare(root, Fleet())
    assert [m.path for m in mistakes] == [("backends", 0, "provider"), ("deployments", 0, "model")]


def test_defaults() -> None:
    root: dict[str, object] = {
        "providers": [{"id": "p", "kind": "ollama"}],
        "backends": [{"id": "b", "provider": "p", "base_url": "http://b:11434/"}],
        "models": [{"id": "m", "price": {"input": "2", "output": 8}, "lifecycle": {}}],
        "deployments": [{"model": "m", "backend": "b"}],
    }
    declared, mistakes = declare(root, Fleet())
    assert mistakes == []
    (backend,), (published,), (deployment,) = declared.backends, declared.models, declared.deployments
    assert backend == Backend("b", "p", "http://b:11434", "b", "ollama")
    assert (published.kind, published.owned_by, published.lifecycle) == (ModelKind.CHAT, "llmaas", Lifecycle())
    assert deployment == Deployment("m", "b", "m", 1)


def test_classes_of_tokens_without_a_price_cost_what_they_are_part_of() -> None:
    def price_of(**price: object) -> tuple[int, int, int, int]:
        declared, mistakes = declare({"models": [{"id": "m", "price": price}]}, Fleet())
        assert mistakes == []
        made = declared.models[0].price
        assert made is not None
        return made.input, made.cached_input, made.output, made.reasoning

    assert price_of(input="2", output="8") == (2 * 10**9, 2 * 10**9, 8 * 10**9, 8 * 10**9)
    assert price_of(input="2", output="8", cached_input=0, reasoning="0") == (2 * 10**9, 0, 8 * 10**9, 0)
    assert price_of() == (0, 0, 0, 0)


def test_a_description_declares_the_same_fleet() -> None:
    root: dict[str, object] = {
        "tiers": [{"id": "t", "monthly_cap": "0.000000001", "output_tokens_per_day": 10**12}],
        "providers": [
            {"id": "p", "kind": "openai", "api_key_env": "LLMAAS_PROVIDER_KEY", "extra_parameters": ["top_k", "min_p"]}
        ],
        "backends": [{"id": "b", "provider": "p", "base_url": "https://b/v1", "max_concurrency": 3}],
        "models": [
            {"id": "old", "lifecycle": {"phase": "retired", "successor": "ñ:1/x", "retires": "2026-01-31"}},
            {"id": "ñ:1/x", "aliases": ["B", "a"], "kind": "embedding", "price": {}, "card": {"a": [1, {"b": 2.5}]}},
        ],
        "deployments": [{"model": "ñ:1/x", "backend": "b", "root": "r", "weight": 7}],
    }
    declared, mistakes = declare(root, Fleet())
    assert mistakes == []
    assert declare(dict(describe(declared)), Fleet()) == (declared, [])
