"""Which models a key may use, by their names, aliases and successors."""

from __future__ import annotations

import pytest

from llmaas.domain.access import Caller, find_model, model_ids
from llmaas.domain.catalogue import Catalogue
from llmaas.domain.keys import Key
from llmaas.domain.models import Lifecycle, Model, ModelKind
from llmaas.domain.projects import Project
from llmaas.errors import InvalidRequest, UnknownModel


def model(name: str, *aliases: str, phase: str = "production", successor: str | None = None) -> Model:
    return Model(name, ModelKind.CHAT, 0, aliases, lifecycle=Lifecycle(phase, successor=successor))


CATALOGUE = Catalogue(
    revision=1,
    models=(
        model("new", "latest"),
        model("other"),
        model("old", "older", phase="retired", successor="new"),
        model("oldest", phase="retired", successor="old"),
        model("gone", phase="retired"),
    ),
    providers=(),
    backends=(),
    deployments=(),
)


def caller(*allowed: str) -> Caller:
    return Caller(Key("k", "p", "k", b"", 0, allowed_models=frozenset(allowed)), Project("p", "P", 0))


@pytest.mark.parametrize("allowed", ["new", "old", "oldest"])
def test_the_right_to_a_retired_model_goes_over_to_its_successor(allowed: str) -> None:
    for name in ("new", "Latest", "old", "OLDER", "oldest"):
        assert find_model(CATALOGUE, caller(allowed), name).model.id == "new"
    for name in ("other", "gone", "nothing"):
        with pytest.raises(UnknownModel):
            find_model(CATALOGUE, caller(allowed), name)


def test_a_key_of_a_model_without_successor_may_use_nothing() -> None:
    for name in ("new", "old", "gone", "other"):
        with pytest.raises(UnknownModel):
            find_model(CATALOGUE, caller("gone"), name)


def test_names_for_a_key_mean_what_they_mean_in_requests() -> None:
    assert model_ids(CATALOGUE, ["Latest", "older", "oldest", "OTHER"]) == {"new", "other"}
    assert model_ids(CATALOGUE, ["gone", "old"], kept={"gone", "old"}) == {"gone", "old"}
    with pytest.raises(InvalidRequest, match=r"There is no model `gone`, `x`\. Known models: new, other"):
        model_ids(CATALOGUE, ["gone", "x", "new"])
