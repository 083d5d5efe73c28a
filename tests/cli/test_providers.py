"""`providers`: adding them, keeping their credentials to ourselves, and finding out what they are."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from pathlib import Path

import pytest

from llmaas.datadir import Installation
from llmaas.settings import load
from tests.cli.peer import Peer
from tests.cli.running import Cli, Start, finish

SECRET = "sk-canary-4711"


def add(llmaas: Cli, url: str, *options: str, kind: str = "vllm") -> None:
    llmaas.good("providers", "add", "lab", "--kind", kind, "--base-url", url, *options)


def test_a_provider_is_added_with_its_backend(llmaas: Cli) -> None:
    ran = llmaas.good(
        *("providers", "add", "lab", "--kind", "vllm", "--base-url", "http://10.0.0.12:8000/v1/"),
        *("--machine-name", "ma02", "--api-key-env", "LLMAAS_PROVIDER_LAB_KEY"),
    )
    assert ran.out == "added provider lab\n"
    (provider,) = llmaas.good("providers", "list", "--json").json
    assert provider == {
        "id": "lab",
        "kind": "vllm",
        "credential": "$LLMAAS_PROVIDER_LAB_KEY",
        "cancel_stops_billing": True,
        "extra_parameters": [],
        "explain_refusals": True,
        "backends": [
            {
                "id": "lab",
                "machine_name": "ma02",
                "base_url": "http://10.0.0.12:8000/v1",
                "engine_type": "vllm",
                "max_concurrency": None,
            }
        ],
    }
    assert "$LLMAAS_PROVIDER_LAB_KEY" in llmaas.good("providers", "list").out
    again = llmaas("providers", "add", "lab", "--kind", "openai", "--base-url", "http://h/v1")
    assert (again.code, again.errors) == (1, ["There is a provider or backend `lab` already."])


@pytest.mark.parametrize(
    ("kind", "options", "explained"),
    [
        ("ollama", [], True),
        ("ollama", ["--explain-refusals"], True),
        ("ollama", ["--no-explain-refusals"], False),
        ("openai", [], False),
        ("openai", ["--no-explain-refusals"], False),
    ],
)
def test_a_provider_says_whether_its_engines_are_quoted(
    llmaas: Cli, kind: str, options: list[str], explained: bool
) -> None:
    add(llmaas, "http://10.0.0.12:8000/v1", *options, kind=kind)
    (provider,) = llmaas.good("providers", "list", "--json").json
    assert provider["explain_refusals"] is explained
    file = llmaas.good("export").out
    assert ("explain_refusals" in file) is bool(options), "what was not declared is not exported"


def test_an_outside_provider_is_not_added_with_explained_refusals(llmaas: Cli) -> None:
    ran = llmaas(*("providers", "add", "p", "--kind", "openai", "--base-url", "http://h/v1", "--explain-refusals"))
    assert ran.code == 1
    assert "explain_refusals can't be true for a provider of kind openai" in ran.errors[0]
    assert llmaas.good("providers", "list", "--json").json == []


def test_vllm_has_its_api_below_v1(llmaas: Cli) -> None:
    llmaas.good("providers", "add", "lab", "--kind", "vllm", "--base-url", "http://10.0.0.12:8000/")
    [provider] = llmaas.good("providers", "list", "--json").json
    assert provider["backends"][0]["base_url"] == "http://10.0.0.12:8000/v1"


def test_an_embedded_provider_needs_no_address(llmaas: Cli) -> None:
    llmaas.good("providers", "add", "here", "--kind", "embedded")
    (result,) = llmaas.good("providers", "test", "here", "--json").json
    assert result["ok"] is True


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (["--kind", "vllm"], 1, "backend `lab` lacks a base_url"),
        (["--kind", "vllm", "--base-url", "h"], 1, "base_url in [[backends]] must be an http or https address"),
        (["--kind", "vllm", "--base-url", "http://h", "--api-key-env", SECRET], 1, "api_key_env in [[providers]] must"),
        (
            ["--kind", "vllm", "--base-url", "http://h", "--api-key-env", "LLMAAS_MASTER_KEY"],
            1,
            "api_key_env in [[providers]] must not",
        ),
        (
            ["--kind", "vllm", "--base-url", "http://h", "--api-key-env", "AWS_SECRET_ACCESS_KEY"],
            1,
            (
                "provider `lab`: api_key_env must begin with LLMAAS_PROVIDER_, or be allowed by the setting credential_variables,"
                ' not "AWS_SECRET_ACCESS_KEY"; did you mean "LLMAAS_PROVIDER_AWS_SECRET_ACCESS_KEY"?'
            ),
        ),
        (
            ["--kind", "vllm", "--base-url", "http://h", "--machine-name", "a\nb"],
            1,
            "machine_name in [[backends]] holds",
        ),
        (
            ["--kind", "openai", "--base-url", "http://h/v1/chat/completions"],
            1,
            "base_url in [[backends]] must be the address before /chat/completions, http://h/v1",
        ),
        (["--kind", "vlm", "--base-url", "http://h"], 2, "Invalid value for '--kind'"),
        (["--base-url", "http://h"], 2, "Missing option '--kind'"),
    ],
)
def test_a_wrong_provider_is_not_added(options: list[str], code: int, error: str, llmaas: Cli) -> None:
    ran = llmaas("providers", "add", "lab", *options)
    assert ran.code == code
    assert ran.errors[0].startswith(error)
    assert SECRET not in ran.err
    assert llmaas.good("providers", "list", "--json").json == []


def test_a_credential_is_stored_sealed(llmaas: Cli, peer: Peer) -> None:
    add(llmaas, f"{peer.url}/v1")
    ran = llmaas.good("providers", "set-secret", "lab", stdin=f"{SECRET}\n")
    assert ran.out == "stored the credential of lab\n"
    assert llmaas.good("providers", "list", "--json").json[0]["credential"] == "stored"
    kept = b"".join(file.read_bytes() for file in llmaas.data_dir.iterdir() if file.is_file())
    assert SECRET.encode() not in kept
    assert SECRET not in llmaas.good("export").out
    peer.answers["/v1/models"] = (200, {"data": [{"id": "m", "owned_by": "vllm"}]})
    llmaas.good("providers", "test", "lab")
    assert peer.asked[0].headers["authorization"] == f"Bearer {SECRET}"
    llmaas.good("providers", "set-secret", "lab", "--remove")
    llmaas.good("providers", "test", "lab")
    assert "authorization" not in peer.asked[1].headers


@pytest.mark.parametrize("secret", ["", "\n", "a\nb", "é", "x" * 20_000])
def test_a_credential_is_one_line(secret: str, llmaas: Cli) -> None:
    add(llmaas, "http://h/v1")
    ran = llmaas("providers", "set-secret", "lab", stdin=secret)
    assert (ran.code, ran.errors) == (1, ["The credential must be one line of printable ASCII characters."])


def test_a_credential_needs_its_provider(llmaas: Cli) -> None:
    ran = llmaas("providers", "set-secret", "nobody", stdin=SECRET)
    assert (ran.code, ran.errors) == (1, ["There is no provider `nobody`."])


def test_a_credential_that_does_not_open_is_told(llmaas: Cli) -> None:
    add(llmaas, "http://127.0.0.1:9/v1")
    llmaas.good("providers", "set-secret", "lab", stdin=SECRET)
    with sqlite3.connect(llmaas.data_dir / "llmaas.db") as database:
        database.execute("UPDATE providers SET secret = zeroblob(60)")
    database.close()
    ran = llmaas("providers", "test", "lab")
    assert ran.code == 1
    assert "does not open with this master key" in ran.out


def test_A22_a_variable_of_the_host_is_read_where_a_setting_allows_it(start: Start, llmaas: Cli, peer: Peer) -> None:
    """The operator's own command is the same door as the admin API, and a row that is there already is not read past it."""
    peer.answers["/v1/models"] = (200, {"data": []})
    settings = llmaas.data_dir / "llmaas.toml"
    settings.write_text('credential_variables = ["LAB_KEY", "OUTSIDE_*"]\n')
    add(llmaas, f"{peer.url}/v1", "--api-key-env", "LAB_KEY")
    assert finish(start("providers", "test", "lab", env={"LAB_KEY": SECRET})).code == 0
    assert peer.asked[0].headers["authorization"] == f"Bearer {SECRET}"
    exported = llmaas.good("export").out
    settings.unlink()
    refused = finish(start("providers", "test", "lab", "--json", env={"LAB_KEY": SECRET}))
    assert refused.code == 1
    assert "credential_variables" in refused.json[0]["error"]
    assert len(peer.asked) == 1
    assert (
        "nothing to change" in llmaas.good("apply", "-", stdin=exported).err
    )  # it stands in the way of no other change
    changed = llmaas("apply", "-", stdin=exported.replace("LAB_KEY", "GITHUB_TOKEN"))
    assert (changed.code, "credential_variables" in changed.errors[0]) == (3, True)
    found = {line["about"]: line for line in llmaas("doctor", "--json").json}
    assert "credential_variables" in found["provider lab"]["fix"]


def test_the_credential_comes_from_the_environment(start: Start, llmaas: Cli, peer: Peer) -> None:
    add(llmaas, f"{peer.url}/v1", "--api-key-env", "LLMAAS_PROVIDER_LAB_KEY")
    peer.answers["/v1/models"] = (200, {"data": []})
    without = llmaas("providers", "test", "lab", "--json")
    assert without.code == 1
    assert without.json[0]["ok"] is None, "the service may have it"
    assert without.json[0]["error"].startswith(
        "LLMAAS_PROVIDER_LAB_KEY is not set in this terminal; `llmaas serve` has an environment of its own; set it here"
    )
    assert "unknown" in llmaas("providers", "test", "lab").out
    assert finish(start("providers", "test", "lab", env={"LLMAAS_PROVIDER_LAB_KEY": SECRET})).code == 0
    assert peer.asked[0].headers["authorization"] == f"Bearer {SECRET}"


def test_what_a_server_is_and_serves(llmaas: Cli, peer: Peer) -> None:
    add(llmaas, f"{peer.url}/v1")
    peer.answers["/v1/models"] = (200, {"data": [{"id": "a\x1b[31m", "owned_by": "vllm"}, {"id": "b"}, "junk"]})
    (found,) = llmaas.good("providers", "test", "lab", "--json").json
    assert found == {
        "backend": "lab",
        "ok": True,
        "server": "OpenAI-compatible (vllm)",
        "models": ["a\x1b[31m", "b"],
        "error": None,
    }
    text = llmaas.good("providers", "test", "lab").out
    assert "a\\x1b[31m, b" in text


def test_what_an_ollama_is_and_serves(llmaas: Cli, peer: Peer) -> None:
    add(llmaas, peer.url, kind="ollama")
    peer.answers["/api/version"] = (200, {"version": "0.9.1"})
    peer.answers["/api/tags"] = (200, {"models": [{"name": "llama3:8b"}]})
    (found,) = llmaas.good("providers", "test", "lab", "--json").json
    assert (found["server"], found["models"]) == ("Ollama 0.9.1", ["llama3:8b"])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((401, {}), "asks for a credential (401); set it with `llmaas providers set-secret` or api_key_env"),
        ((404, {}), "has no /v1/models (404); check the path of base_url (most servers want …/v1)"),
        ((500, b"oops"), "answers 500 to GET /v1/models"),
        ((302, b""), "answers 302 to GET /v1/models"),
        ((200, b"<html>"), "answers, but not with a JSON object: is this an inference server?"),
        ((200, [1]), "answers, but not with a JSON object: is this an inference server?"),
        ((200, {"models": []}), "answers, but not with a list of models: is this an OpenAI-compatible server?"),
    ],
)
def test_why_a_server_is_not_usable(answer: tuple[int, object], expected: str, llmaas: Cli, peer: Peer) -> None:
    add(llmaas, f"{peer.url}/v1")
    peer.answers["/v1/models"] = answer
    ran = llmaas("providers", "test", "lab", "--json")
    assert ran.code == 1
    assert ran.json[0]["error"] == expected


def test_why_nothing_answers(llmaas: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    add(llmaas, f"http://127.0.0.1:{port}/v1")
    ran = llmaas("providers", "test", "lab")
    assert ran.code == 1
    assert f"nothing listens on 127.0.0.1:{port}; start the server, or check base_url" in ran.out


def test_tls_where_there_is_none(llmaas: Cli, peer: Peer) -> None:
    add(llmaas, peer.url.replace("http:", "https:"))
    ran = llmaas("providers", "test", "lab", "--json")
    assert "is it http:// instead of https://?" in ran.json[0]["error"]


def test_one_of_several_backends_fails(llmaas: Cli, peer: Peer) -> None:
    peer.answers["/v1/models"] = (200, {"data": []})
    llmaas.good(
        "apply",
        "-",
        stdin=f'[[providers]]\nid="lab"\nkind="vllm"\n[[backends]]\nid="a"\nprovider="lab"\nbase_url="{peer.url}/v1"\n'
        f'[[backends]]\nid="b"\nprovider="lab"\nbase_url="{peer.url}/v2"\n',
    )
    ran = llmaas("providers", "test", "lab", "--json")
    assert ran.code == 1
    assert [result["ok"] for result in ran.json] == [True, False]


def test_a_secret_is_never_an_argument(llmaas: Cli, data_dir: Path) -> None:
    add(llmaas, "http://h/v1")
    ran = llmaas("providers", "set-secret", "lab", SECRET)
    assert ran.code == 2

    async def sealed() -> dict[str, bytes]:
        installation = await Installation(load({"data_dir": data_dir}, {}).settings).open()
        try:
            return await installation.catalogue.sealed_secrets()
        finally:
            await installation.close()

    assert asyncio.run(sealed()) == {}
