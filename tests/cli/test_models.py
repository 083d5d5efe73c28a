"""`models`: the catalogue for people and programs, and pulling files by the manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.cli.running import Cli

FLEET = """
[[providers]]
id = "lab"
kind = "vllm"
[[backends]]
id = "ma02"
provider = "lab"
base_url = "http://10.0.0.12:8000/v1"
[[models]]
id = "org/granite3.3:8b"
aliases = ["granite", "[bold]g[/bold]"]
max_model_len = 60_000
price = { input = "1.80", output = "8.00" }
capabilities = ["tools"]
[models.card]
editor = "IBM"
languages = ["es", "fr"]
[models.lifecycle]
released = "2025-01-01"
[[models]]
id = "plain"
[[models]]
id = "old"
lifecycle = { phase = "retired", successor = "plain" }
[[deployments]]
model = "org/granite3.3:8b"
backend = "ma02"
root = "ibm-granite/granite-3.3-8b-instruct"
"""


def test_models_are_listed(llmaas: Cli) -> None:
    empty = llmaas.good("models", "list")
    assert (empty.out, empty.err.split(":")[0]) == ("", "no models yet")
    assert llmaas.good("models", "list", "--json").json == []
    llmaas.good("apply", "-", stdin=FLEET)
    head, first, *_ = llmaas.good("models", "list").out.splitlines()
    assert head.split()[:3] == ["ID", "ALIASES", "KIND"]
    assert first.split() == [
        *("org/granite3.3:8b", "granite,", "[bold]g[/bold]", "chat", "60000", "production", "1.80", "8.00", "ma02")
    ]
    listed = llmaas.good("models", "list", "--json").json
    assert [model["id"] for model in listed] == ["org/granite3.3:8b", "plain", "old"]
    assert {frozenset(model) >= {"aliases", "card", "price", "deployments", "created"} for model in listed} == {True}


def test_a_model_is_shown_by_any_of_its_names(llmaas: Cli) -> None:
    llmaas.good("apply", "-", stdin=FLEET)
    shown = llmaas.good("models", "show", "GRANITE", "--json").json
    assert shown["id"] == "org/granite3.3:8b"
    assert shown["price"]["reasoning"] == "8.00"
    assert shown["lifecycle"] == {"phase": "production", "released": "2025-01-01"}
    assert shown["deployments"] == [
        {
            "backend": "ma02",
            "machine_name": "ma02",
            "engine_type": "vllm",
            "provider": "lab",
            "root": "ibm-granite/granite-3.3-8b-instruct",
            "weight": 1,
        }
    ]
    text = llmaas.good("models", "show", "granite").out
    assert "card.languages" in text
    assert "es, fr" in text
    assert llmaas.good("models", "show", "old", "--json").json["lifecycle"]["successor"] == "plain"
    ran = llmaas("models", "show", "nothing")
    assert (ran.code, ran.errors) == (1, ["The model `nothing` does not exist or you do not have access to it."])


def manifest(data_dir: Path, file: Path, digest: str | None) -> None:
    line = f'sha256 = "{digest}"' if digest else ""
    (data_dir / "models.toml").write_text(
        f'[[models]]\nname = "tiny"\nfile = "tiny.gguf"\ncontext = 512\n'
        f'[[models.sources]]\ntype = "file"\npath = "{file}"\n{line}\n'
    )


def test_a_file_is_pulled_and_verified(llmaas: Cli, tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"GGUF" + b"x" * 100_000)
    manifest(llmaas.data_dir, file, hashlib.sha256(file.read_bytes()).hexdigest())
    pulled = llmaas.good("models", "pull", "tiny")
    path = Path(pulled.out.removesuffix("\n"))
    assert path.read_bytes() == file.read_bytes()
    file.unlink()
    again = llmaas.good("models", "pull", "tiny", "--json").json
    assert again == {"name": "tiny", "path": str(path), "size_bytes": 100_004}


def test_a_pull_that_fails_says_why(llmaas: Cli, tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    manifest(llmaas.data_dir, file, None)
    missing = llmaas("models", "pull", "tiny")
    assert (missing.code, missing.out) == (1, "")
    assert "could not be pulled from any source" in missing.errors[0]
    assert f"there is no file {file}" in missing.err
    file.write_bytes(b"GGUF")
    manifest(llmaas.data_dir, file, "0" * 64)
    wrong = llmaas("models", "pull", "tiny")
    assert wrong.code == 1
    assert "is not the expected one" in wrong.err
    unknown = llmaas("models", "pull", "nothing")
    assert unknown.code == 1
    assert unknown.errors == ["There is no model `nothing` in the manifest. It knows: qwen2.5-coder:1.5b, tiny."]


def test_a_broken_manifest_is_a_mistake_of_configuration(llmaas: Cli) -> None:
    (llmaas.data_dir / "models.toml").write_text('[[models]]\nname = "x"\n[[models]]\nfile = "../x"\n')
    ran = llmaas("models", "pull", "x")
    assert ran.code == 3
    assert len(ran.errors) == 2


def test_a_model_without_a_price_says_so_and_a_free_one_shows_nothing_but_zeros(llmaas: Cli) -> None:
    llmaas.good("apply", "-", stdin=FLEET + '[[models]]\nid = "free"\nprice = { input = "0" }\n')
    lines = {line.split()[0]: line for line in llmaas.good("models", "list").out.splitlines()[1:]}
    assert lines["plain"].count("no price") == 2
    assert ("no price" in lines["free"], lines["free"].count("0.00")) == (False, 2)
    assert "no price" in llmaas.good("models", "show", "plain").out
    assert "no price" not in llmaas.good("models", "show", "free").out
    assert llmaas.good("models", "show", "plain", "--json").json["price"] is None
    assert llmaas.good("models", "show", "free", "--json").json["price"]["input"] == "0.00"
