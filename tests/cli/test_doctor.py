"""`doctor`: each fault that it knows is found, and told with its remedy."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import time
from http.server import BaseHTTPRequestHandler

import pytest

from tests.cli.ledgers import record, spool, usage_row
from tests.cli.peer import Peer
from tests.cli.running import Cli
from tests.valkey import ValkeyServer


class Doctor:
    def __init__(self, llmaas: Cli, port: int) -> None:
        self.llmaas = llmaas
        self.port = port

    def __call__(self, code: int) -> dict[str, dict[str, str]]:
        ran = self.llmaas("doctor", "--json")
        assert ran.code == code, ran.out
        return {finding["about"]: finding for finding in ran.json}


@pytest.fixture
def doctor(llmaas: Cli, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("LLMAAS_PORT", str(port))
    # A program that is there: loading the built-in engine in another process takes a second, and has its own test.
    monkeypatch.setenv("LLMAAS_LLAMA_SERVER", shutil.which("true") or "true")
    return Doctor(llmaas, port)


def test_an_installation_that_is_well(doctor: Doctor) -> None:
    found = doctor(0)
    assert {about for about, finding in found.items() if finding["state"] != "ok"} == {"models"}
    assert set(found) == {
        *(
            "settings",
            "disk",
            "data directory",
            "port",
            "engine",
            "database",
            "master key",
            "spool",
            "clock",
            "models",
            "prices",
        )
    }
    text = doctor.llmaas.good("doctor").out
    assert "ok    master key: " in text
    assert "      fix: " in text


def test_the_built_in_engine_is_loaded(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMAAS_LLAMA_SERVER", "builtin")
    assert doctor(0)["engine"]["text"] == "built-in llama.cpp"
    monkeypatch.setenv("LLMAAS_LLAMA_SERVER", "/nowhere/llama-server")
    assert doctor(1)["engine"]["fix"] == "set llama_server to its path, or to `builtin`"


def test_a_valkey_that_is_not_there(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, mortal_valkey: ValkeyServer
) -> None:
    monkeypatch.setenv("LLMAAS_STATE_URL", mortal_valkey.url.replace("://", "://:secret@"))
    mortal_valkey.kill()
    found = doctor(1)["valkey"]
    assert found["state"] == "fail"
    assert "state_url" in found["fix"]
    assert "secret" not in str(found)


def test_wrong_settings(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMAAS_WORKERS", "0")
    assert list(doctor(1)) == ["settings"]


def test_the_port_is_taken_by_another_program(doctor: Doctor, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang_up(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        handler.close_connection = True

    monkeypatch.setenv("LLMAAS_PORT", peer.url.rpartition(":")[2])
    peer.answers["/readyz"] = hang_up
    assert "another program listens" in doctor(1)["port"]["text"]


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, {"status": "ready"}, "ok"),
        (200, {"status": "ready", "degraded": "database_away"}, "warn"),
        (503, {"status": "draining"}, "warn"),
        (200, {"hello": 1}, "fail"),
    ],
)
def test_the_port_is_served(
    status: int, body: object, state: str, doctor: Doctor, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMAAS_PORT", peer.url.rpartition(":")[2])
    peer.answers["/readyz"] = (status, body)
    assert doctor(1 if state == "fail" else 0)["port"]["state"] == state


def test_an_address_of_another_machine(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMAAS_HOST", "no-such-host.invalid")
    assert doctor(1)["port"]["state"] == "fail"


def test_a_damaged_database(doctor: Doctor) -> None:
    path = doctor.llmaas.data_dir / "llmaas.db"
    record(doctor.llmaas.data_dir, [usage_row(n) for n in range(500)])
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'usage_by_project_time'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    content = bytearray(path.read_bytes())
    content[(root - 1) * size + 100 : root * size] = b"\x5a" * (size - 100)
    path.write_bytes(content)
    found = doctor(1)["database"]
    assert "is damaged" in found["text"]
    assert "backup" in found["fix"]


def test_no_database_at_all(doctor: Doctor) -> None:
    (doctor.llmaas.data_dir / "llmaas.db").write_bytes(b"x" * 5000)
    assert "cannot be used" in doctor(1)["data"]["text"]


def test_a_master_key_for_everyone(doctor: Doctor) -> None:
    path = doctor.llmaas.data_dir / "master.key"
    path.chmod(0o644)
    assert doctor(1)["master key"]["fix"] == f"chmod 600 {path}"


def test_a_data_directory_for_everyone(doctor: Doctor) -> None:
    path = doctor.llmaas.data_dir
    path.chmod(0o750)
    assert doctor(0)["data directory"]["state"] == "ok"
    path.chmod(0o755)
    found = doctor(0)["data directory"]
    assert (found["state"], found["fix"]) == ("warn", f"chmod 700 {path}")
    assert "(mode 755)" in found["text"]


def test_rows_in_the_spool(doctor: Doctor) -> None:
    spool(doctor.llmaas.data_dir, [usage_row(1)])
    found = doctor(0)["spool"]
    assert (found["state"], found["text"]) == ("warn", "1 usage rows wait for the database")


def test_a_clock_that_went_back(doctor: Doctor) -> None:
    record(doctor.llmaas.data_dir, [usage_row(1, started_ms=time.time_ns() // 1_000_000 + 3_600_000)])
    assert "the clock went back" in doctor(1)["clock"]["text"]


def test_models_that_nothing_serves(doctor: Doctor) -> None:
    doctor.llmaas.good("apply", "-", stdin='[[models]]\nid = "granite"\n')
    assert doctor(0)["models"]["text"] == "nothing serves granite"


def test_providers(doctor: Doctor, peer: Peer) -> None:
    peer.answers["/v1/models"] = (200, {"data": [{"id": "m"}]})
    fleet = "".join(
        f'[[providers]]\nid="{name}"\nkind="vllm"\n{more}\n[[backends]]\nid="{name}"\nprovider="{name}"\nbase_url="{url}"\n'
        for name, more, url in [
            ("fine", "", f"{peer.url}/v1"),
            ("poor", 'api_key_env="LLMAAS_PROVIDER_NO_SUCH"', f"{peer.url}/v1"),
            ("gone", "", f"http://127.0.0.1:{doctor.port}/v1"),
        ]
    )
    served = "".join(
        f'[[models]]\nid="{root}"\nkind="chat"\n[[deployments]]\nmodel="{root}"\nbackend="fine"\nroot="{root}"\n'
        for root in ("m", "typo")
    )
    doctor.llmaas.good("apply", "-", stdin=fleet + served)
    found = doctor(1)
    assert found["provider fine, backend fine"]["text"] == "OpenAI-compatible, 1 model"
    assert found["provider fine, backend fine, model typo"]["state"] == "warn"
    assert "provider fine, backend fine, model m" not in found
    unset = "LLMAAS_PROVIDER_NO_SUCH is not set in this terminal; `llmaas serve` has an environment of its own"
    assert (found["provider poor"]["state"], found["provider poor"]["text"]) == ("note", unset)
    assert "nothing listens" in found["provider gone, backend gone"]["text"]


def test_embedded_model_files(doctor: Doctor) -> None:
    data_dir = doctor.llmaas.data_dir
    source = data_dir / "source.gguf"
    source.write_bytes(b"GGUF" * 100)
    (data_dir / "models.toml").write_text(
        f'[[models]]\nname="tiny"\nfile="tiny.gguf"\ncontext=512\n[[models.sources]]\ntype="file"\npath="{source}"\n'
    )
    fleet = '[[providers]]\nid="e"\nkind="embedded"\n[[backends]]\nid="e"\nprovider="e"\n[[models]]\nid="m"\n'
    doctor.llmaas.good("apply", "-", stdin=f'{fleet}[[deployments]]\nmodel="m"\nbackend="e"\nroot="tiny"\n')
    assert doctor(0)["model file tiny"]["state"] == "warn"
    doctor.llmaas.good("models", "pull", "tiny")
    assert doctor(0)["model file tiny"]["text"].endswith("tiny.gguf, verified")
    (data_dir / "models" / "tiny.gguf").write_bytes(b"GGUF, but another")
    assert "is corrupt" in doctor(1)["model file tiny"]["text"]


def test_a_model_without_a_price_is_named_and_a_price_of_0_is_one(doctor: Doctor) -> None:
    fleet = (
        '[[models]]\nid = "free"\nprice = { input = "0" }\n[[models]]\nid = "forgotten"\n[[models]]\nid = "on-tiers"\n'
    )
    fleet += '[[tiers]]\nid = "t"\n[tiers.prices]\n"on-tiers" = { input = "1.00" }\n'
    doctor.llmaas.good("apply", "-", stdin=fleet)
    found = doctor(0)["prices"]
    assert (found["state"], "price of 0" in found["fix"]) == ("warn", True)
    assert found["text"].startswith("no price: forgotten, on-tiers (but on tiers that have one);")
    doctor.llmaas.good("apply", "-", "--prune", stdin='[[models]]\nid = "free"\nprice = { input = "0" }\n')
    assert doctor(0)["prices"]["state"] == "ok"
