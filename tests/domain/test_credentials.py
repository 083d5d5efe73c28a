"""Which variables a provider may name: what was put there for providers, and nothing else of the host."""

from __future__ import annotations

import dataclasses

import pytest

from llmaas.domain.credentials import OWN_VARIABLES, PROVIDER_VARIABLES, CredentialVariables, quoted
from llmaas.errors import ConfigurationError
from llmaas.settings import PREFIX, PROVIDERS, Settings, load

FOREIGN = [
    "AWS_SECRET_ACCESS_KEY",
    "DATABASE_URL",
    "GITHUB_TOKEN",
    "OPENAI_API_KEY",
    "PATH",
    "llmaas_provider_key",
    "LAB_KEY",
]
OWN = ["LLMAAS_MASTER_KEY", "LLMAAS_KEY", "LLMAAS_PROVIDER", "LLMAAS_PROVIDERS_KEY", "LLMAAS_CREDENTIAL_VARIABLES"]


@pytest.mark.parametrize("name", FOREIGN)
def test_A22_a_variable_of_the_host_is_named_only_where_a_setting_allows_it(name: str) -> None:
    fault = CredentialVariables().fault(name)
    assert fault is not None
    assert "credential_variables" in fault
    assert name not in fault
    assert CredentialVariables([name]).fault(name) is None
    assert CredentialVariables([f"{name[:3]}*"]).fault(name) is None
    assert CredentialVariables([f"{name}_2", name[:-1], name.swapcase()]).fault(name) is not None


@pytest.mark.parametrize("name", OWN)
def test_A22_no_setting_allows_a_variable_of_this_service(name: str) -> None:
    for patterns in ([], [name], ["*"], ["LLMAAS_*"]):
        assert CredentialVariables(patterns).fault(name) is not None


def test_what_is_there_for_providers_may_be_named() -> None:
    assert CredentialVariables().fault("LLMAAS_PROVIDER_LAB_KEY") is None
    assert (OWN_VARIABLES, PROVIDER_VARIABLES) == (PREFIX, PROVIDERS)
    assert not [field.name for field in dataclasses.fields(Settings) if field.name.startswith("provider_")]
    environment = {"LLMAAS_PROVIDER_LAB_KEY": "x", "LLMAAS_CREDENTIAL_VARIABLES": "LAB_KEY, OUTSIDE_*"}
    assert load({}, environment).settings.credential_variables == ("LAB_KEY", "OUTSIDE_*")


@pytest.mark.parametrize("pattern", ["LAB-KEY", "[A-Z]*", "A?", "1A", "sk-live"])
def test_a_pattern_of_another_form_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({}, {"LLMAAS_CREDENTIAL_VARIABLES": pattern})
    assert "credential_variables" in str(caught.value.problems)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("OUTSIDE_KEY", "LLMAAS_PROVIDER_OUTSIDE_KEY"),
        ("OPENAIKEY", "LLMAAS_PROVIDER_OPENAIKEY"),
        ("LLMAAS_KEY", "LLMAAS_PROVIDER_KEY"),
        ("LLMAAS_PROVIDERS_KEY", "LLMAAS_PROVIDER_KEY"),
    ],
)
def test_a_wrong_name_is_told_with_the_likely_right_one(name: str, right: str) -> None:
    assert quoted(name) == f', not "{name}"; did you mean "{right}"?'


@pytest.mark.parametrize(
    "text", ["sk-live-4711", "sk_live_4711", "AKIAIOSFODNN7EXAMPLE", "Key", "A" * 61, "A_" * 40, "1_A", "LAB_KEY\n", ""]
)
def test_what_may_be_a_credential_is_not_shown(text: str) -> None:
    assert quoted(text) == ""
