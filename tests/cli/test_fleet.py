"""`apply` and `export`: what a fleet file may say, every mistake with its line, and that it is all or nothing."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmaas.cli.fleet import read_fleet, write_fleet
from llmaas.domain.fleet import Fleet
from llmaas.errors import ConfigurationError
from tests.cli.fleet_mistakes import BACKEND, MISTAKES
from tests.cli.running import Cli

WHOLE = """
[[tiers]]
id = "tier-1"
requests_per_minute = 600
concurrent_requests = 32
output_tokens_per_hour = 150_000
output_tokens_per_day = 3_600_000
monthly_cap = "1000.00"

[[providers]]
id = "lab"
kind = "vllm"
api_key_env = "LLMAAS_PROVIDER_LAB_KEY"
cancel_stops_billing = true
extra_parameters = ["top_k", "min_p"]
explain_refusals = false

[[providers]]
id = "here"
kind = "embedded"

[[backends]]
id = "ma02"
provider = "lab"
base_url = "http://10.0.0.12:8000/v1"
machine_name = "ma02"
engine_type = "vllm"
max_concurrency = 64

[[backends]]
id = "me"
provider = "here"

[[models]]
id = "granite3.3:8b"
aliases = ["granite"]
kind = "chat"
max_model_len = 60_000
max_output_tokens = 8_192
owned_by = "CloudTemple"
capabilities = ["tools", "reasoning"]
price = { input = "1.80", cached_input = "0.90", output = "8.00", reasoning = "8.00", request = 1, documents = "0.5" }
[models.card]
editor = "IBM"
languages = ["es", "fr"]
energy_kwh_per_mtok = 0.25
since = 2025-06-01
[models.lifecycle]
phase = "deprecated"
released = "2025-01-01"
deprecated = 2026-01-01
retires = "2026-06-01"
successor = "granite4:8b"

[[models]]
id = "granite4:8b"
price = { input = "0", output = "0" }

[[deployments]]
model = "granite3.3:8b"
backend = "ma02"
root = "ibm-granite/granite-3.3-8b-instruct"
weight = 2
[[deployments]]
model = "granite4:8b"
backend = "me"
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_fleet(text, "f.toml", over=Fleet())
    return list(caught.value.problems)


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_every_mistake_is_told_with_its_line(text: str, expected: list[str]) -> None:
    problems = problems_of(text)
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(f"f.toml:{start}")
        assert problem.isprintable()


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines() -> None:
    texts = [text for text, _ in MISTAKES[3:] if not text.startswith(("models =", "[models]", "zzz"))]
    problems = problems_of("\n".join(texts))
    lines = [int(re.match(r"f\.toml:(\d+): ", problem)[1]) for problem in problems]  # type: ignore[index]
    assert lines == sorted(lines)
    assert len(problems) > 60


def test_what_the_settings_forbid_is_told_with_its_line_among_all_other_mistakes(llmaas: Cli, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(
        '[[providers]]\nid="p"\nkind="vllm"\napi_key_env="OUTSIDE_KEY"\n'
        '[[providers]]\nid="q"\nkind="vllm"\napi_key_env="sk_live_4711"\n'
        '[[providers]]\nid="r"\nkind="vlm"\napi_key_env="LLMAAS_KEY"\n'
        '[[backends]]\nid="b"\nprovider="p"\nbase_url="http://169.254.169.254/v1"\n'
    )
    names = "must begin with LLMAAS_PROVIDER_, or be allowed by the setting credential_variables"
    for options in ([], ["--prune"]):
        refused = llmaas("apply", str(file), *options)
        assert refused.code == 3
        assert "4711" not in "".join(refused.errors)
        expected = [
            f'4: provider `p`: api_key_env {names}, not "OUTSIDE_KEY"; did you mean "LLMAAS_PROVIDER_OUTSIDE_KEY"?',
            f"8: provider `q`: api_key_env {names}",
            '11: kind in [[providers]] must be one of embedded, llama.cpp, ollama, openai, vllm, not "vlm"',
            (
                "12: api_key_env in [[providers]] must not begin with LLMAAS_, except for LLMAAS_PROVIDER_: those are this service's own"
                ', not "LLMAAS_KEY"; did you mean "LLMAAS_PROVIDER_KEY"?'
            ),
            "16: backend `b`: base_url leads to 169.254.169.254, which is denied",
        ]
        told = [line for line in refused.errors if str(file) in line]
        assert len(told) == len(expected)
        for line, words in zip(told, expected, strict=True):
            assert f"{file}:{words}" in line


def test_a_credential_in_a_wrong_place_is_not_shown() -> None:
    text = f'{BACKEND}base_url="http://u:hunter2@h/v1"\n[[providers]]\nid="q"\nkind="vllm"\napi_key_env="sk-hunter2"'
    assert "hunter2" not in "".join(problems_of(text))


def test_a_whole_file_is_understood() -> None:
    fleet = read_fleet(WHOLE, "f.toml", over=Fleet())
    old, new = fleet.models
    assert old.price is not None
    assert (old.price.input, old.price.request, old.price.documents) == (1_800_000_000, 10**9, 500_000_000)
    assert old.card == {
        "editor": "IBM",
        "languages": ["es", "fr"],
        "energy_kwh_per_mtok": 0.25,
        "since": "2025-06-01",
    }
    assert (old.lifecycle.deprecated, old.lifecycle.successor) == ("2026-01-01", new.id)
    assert fleet.backends[1].engine_type == "embedded"
    assert fleet.providers[0].extra_parameters == {"top_k", "min_p"}


def test_text_of_a_fleet_reads_back_as_the_same_fleet() -> None:
    fleet = read_fleet(WHOLE, "f.toml", over=Fleet())
    assert read_fleet(write_fleet(fleet), "g.toml", over=Fleet()) == fleet


_name = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda text: text.isprintable() and text == text.strip()
)
_card = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.recursive(
        st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.\"'", max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
_amount = st.decimals(0, 1_000_000, places=9).map(lambda amount: f"{amount:f}")
_model = st.fixed_dictionaries(
    {"id": _name},
    optional={
        "card": _card,
        "price": st.dictionaries(st.sampled_from(["input", "output", "request", "cached_input"]), _amount),
        "max_model_len": st.integers(1, 2**31 - 1),
        "owned_by": _name,
        "capabilities": st.lists(st.text(string.ascii_lowercase, min_size=1), unique=True),
    },
)


@given(st.lists(_model, max_size=3, unique_by=lambda m: str(m["id"]).casefold()))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_models_survive_the_way_to_text_and_back(models: list[dict[str, Any]]) -> None:
    from llmaas.domain.declarations import declare

    fleet, mistakes = declare({"models": models}, Fleet())
    assert mistakes == []
    assert read_fleet(write_fleet(fleet), "f.toml", over=Fleet()) == fleet


def test_apply_says_what_changes_and_an_export_changes_nothing(llmaas: Cli, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(WHOLE)
    first = llmaas.good("apply", str(file))
    assert first.out.splitlines()[0] == "+ tier tier-1"
    assert first.err == "9 added, 0 changed, 0 removed\n"
    assert llmaas.good("apply", str(file)).err == "nothing to change\n"
    exported = llmaas.good("export").out
    again = llmaas.good("apply", "-", "--prune", stdin=exported)
    assert (again.out, again.err) == ("", "nothing to change\n")
    assert llmaas.good("export").out == exported
    revisions = llmaas.good("models", "show", "granite3.3:8b", "--json").json
    assert revisions["price"]["input"] == "1.80"


def test_a_dry_run_changes_nothing(llmaas: Cli) -> None:
    ran = llmaas.good("apply", "-", "--dry-run", stdin=WHOLE)
    assert "+ model granite4:8b\n" in ran.out
    assert "(dry run: nothing was changed)" in ran.err
    assert llmaas.good("export").out == ""


def test_prune_removes_what_is_not_declared(llmaas: Cli) -> None:
    llmaas.good("apply", "-", stdin=WHOLE)
    less = WHOLE[: WHOLE.index("[[deployments]]")]
    assert llmaas.good("apply", "-", stdin=less).err == "nothing to change\n"
    pruned = llmaas.good("apply", "-", "--prune", "--json", stdin=less)
    assert pruned.json == [
        {"action": "remove", "noun": "deployment", "id": "granite3.3:8b@ma02"},
        {"action": "remove", "noun": "deployment", "id": "granite4:8b@me"},
    ]
    everything = llmaas.good("apply", "-", "--prune", stdin="")
    assert everything.err == "0 added, 0 changed, 7 removed\n"
    assert llmaas.good("export").out == ""


def test_a_part_is_put_over_what_is_there(llmaas: Cli) -> None:
    llmaas.good("apply", "-", stdin=WHOLE)
    part = '[[models]]\nid = "tiny"\n[[deployments]]\nmodel = "tiny"\nbackend = "ma02"\n'
    told = llmaas.good("apply", "-", stdin=part).err.splitlines()
    assert told[0] == "2 added, 0 changed, 0 removed"
    clash = llmaas("apply", "-", stdin='[[models]]\nid = "x"\naliases = ["granite"]\n')
    assert clash.code == 3
    assert clash.errors == ["standard input:3: model `x`: alias `granite` belongs to `granite3.3:8b` already"]
    orphan = llmaas("apply", "-", "--prune", stdin=part)
    assert orphan.code == 3
    assert orphan.errors == ["standard input:5: deployment: there is no backend `ma02`"]


def test_a_file_with_a_mistake_changes_nothing_and_leaves_with_3(llmaas: Cli, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(WHOLE.replace("weight = 2", "weight = -2").replace('kind = "vllm"', 'kind = "vlm"'))
    ran = llmaas("apply", str(file))
    assert ran.code == 3
    assert ran.out == ""
    assert [error.split(": ")[0] for error in ran.errors] == [f"{file}:12", f"{file}:63"]
    assert llmaas.good("export").out == ""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfe", "1: is not UTF-8 text"),
        (b"# \n\n[[models]]\nid = '\xe9'", "4: is not UTF-8 text"),
        (b"x" * (16 * 1024 * 1024 + 1), " is larger than 16 MiB"),
    ],
)
def test_a_file_that_is_no_text_is_refused(content: bytes, expected: str, llmaas: Cli, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_bytes(content)
    ran = llmaas("apply", str(file))
    assert (ran.code, ran.errors) == (3, [f"{file}:{expected}"])


def test_a_file_that_is_not_there_or_has_a_byte_order_mark(llmaas: Cli, tmp_path: Path) -> None:
    assert llmaas("apply", "/nowhere/f.toml").errors == ["/nowhere/f.toml: cannot be read: No such file or directory"]
    assert llmaas("apply", str(tmp_path)).errors == [f"{tmp_path}: cannot be read: Is a directory"]
    file = tmp_path / "fleet.toml"
    file.write_text("\ufeff" + WHOLE)
    assert llmaas("apply", str(file)).code == 0


def test_a_change_of_price_is_a_new_version(llmaas: Cli) -> None:
    text = '[[models]]\nid = "m"\nprice = { input = "1.80" }\n'
    llmaas.good("apply", "-", stdin=text)
    assert llmaas.good("apply", "-", stdin=text).err == "nothing to change\n"
    changed = llmaas.good("apply", "-", stdin=text.replace("1.80", "1.90"))
    assert changed.out == "~ model m: price\n"
    assert llmaas.good("models", "show", "m", "--json").json["price"]["cached_input"] == "1.90"


@pytest.mark.parametrize("options", [["--dry-run"], ["--json"], []])
def test_a_tier_that_becomes_prepaid_tells_how_many_projects_it_stops(llmaas: Cli, options: list[str]) -> None:
    llmaas.good("apply", "-", stdin='[[tiers]]\nid = "team"\n')
    for name in ("a", "b", "rich"):
        llmaas.good("projects", "create", name, "--tier", "team")
    llmaas.good("projects", "credit", "rich", "--add", "5.00")
    text = '[[tiers]]\nid = "team"\nprepaid_credit = "50.00"\n'
    told = "tier team pays in advance from now on: 2 projects on it have no credit left"
    assert told in llmaas.good("apply", "-", *options, stdin=text).err
    if not options:
        assert "in advance" not in llmaas.good("apply", "-", stdin=text).err, "it did already"


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--json"]])
def test_a_model_without_a_price_is_told_and_one_that_is_free_is_not(llmaas: Cli, options: list[str]) -> None:
    text = '[[models]]\nid = "forgotten"\n[[models]]\nid = "free"\nprice = { input = "0" }\n'
    text += (
        '[[models]]\nid = "vectors"\nkind = "embedding"\n[[models]]\nid = "gone"\nlifecycle = { phase = "retired" }\n'
    )
    ran = llmaas.good("apply", "-", *options, stdin=text)
    assert ran.err.splitlines()[-1].startswith("no price: forgotten, vectors; what they answer costs nothing")
