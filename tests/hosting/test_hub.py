"""The hub's real client against a stand-in for the hub."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmaas.errors import EngineFailed
from llmaas.hosting.models.hub import HubFetcher
from llmaas.hosting.models.manifest import FileSource, HubSource
from llmaas.hosting.models.pull import PullCancelled, Puller
from llmaas.hosting.models.store import ModelStore
from llmaas.settings import Secret
from tests.hosting.hub_server import HubServer
from tests.hosting.stores import Shown, digest_of, leftovers, puller_at, spec_of

DATA = random.Random(1).randbytes(25_000_000)
SOURCE = HubSource("lab/m-GGUF", "m.gguf", len(DATA), digest_of(DATA))


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.files["lab/m-GGUF/m.gguf"] = DATA
        yield server


def puller(hub: HubServer, folder: Path, token: str = "") -> Puller:
    return puller_at(folder, {HubSource: HubFetcher(hub.url, Secret(token))})


def test_a_file_comes_from_the_hub(hub: HubServer, tmp_path: Path) -> None:
    shown = Shown()
    path = puller(hub, tmp_path / "models", "hf_secret").pull(spec_of(SOURCE), shown)
    assert path.read_bytes() == DATA
    assert shown.steps[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in shown.steps] == sorted(done for done, _ in shown.steps)
    assert {token for _, _, token in hub.seen} == {"Bearer hf_secret"}
    assert leftovers(tmp_path / "models") == []


def test_no_token_is_sent_when_none_is_set(hub: HubServer, tmp_path: Path) -> None:
    puller(hub, tmp_path / "models").pull(spec_of(SOURCE), Shown())
    assert {token for _, _, token in hub.seen} == {None}


def test_a_cut_connection_is_resumed(hub: HubServer, tmp_path: Path) -> None:
    hub.cuts = [12_000_000]
    assert puller(hub, tmp_path / "models").pull(spec_of(SOURCE), Shown()).read_bytes() == DATA
    first, second = hub.ranges
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 12_000_000


def test_a_pull_that_was_given_up_is_resumed(hub: HubServer, tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done > 15_000_000:
            raise PullCancelled

    with pytest.raises(PullCancelled):
        puller(hub, tmp_path / "models").pull(spec_of(SOURCE), stop)
    shown = Shown()
    assert puller(hub, tmp_path / "models").pull(spec_of(SOURCE), shown).read_bytes() == DATA
    assert hub.ranges[-1] is not None
    assert shown.steps[0][0] > 10_000_000


def test_wrong_bytes_and_missing_files_lead_to_the_next_source(hub: HubServer, tmp_path: Path) -> None:
    origin = tmp_path / "right"
    origin.write_bytes(b"right")
    wrong = HubSource("lab/m-GGUF", "m.gguf", len(DATA), "0" * 64)
    missing = HubSource("lab/m-GGUF", "n.gguf", 5, digest_of(b"right"))
    pulled = puller(hub, tmp_path / "models").pull(spec_of(missing, wrong, FileSource(str(origin))), Shown())
    assert pulled.read_bytes() == b"right"
    assert leftovers(tmp_path / "models") == []
    with pytest.raises(EngineFailed) as caught:
        puller(hub, tmp_path / "others").pull(spec_of(missing, wrong), Shown())
    first, second = (caught.value.hint or "").split("; ")
    assert first.startswith("hub: the hub does not give it: ")
    assert second.startswith("hub: the file is not the expected one")
    assert hub.ranges == []


def test_a_hub_that_lies_is_found_out(hub: HubServer, tmp_path: Path) -> None:
    hub.etag = digest_of(DATA)
    hub.files["lab/m-GGUF/m.gguf"] = DATA[:-1] + b"?"
    with pytest.raises(EngineFailed) as caught:
        puller(hub, tmp_path / "models").pull(spec_of(SOURCE), Shown())
    assert "is not the expected one (sha256" in (caught.value.hint or "")
    assert leftovers(tmp_path / "models") == []


def test_an_unreachable_hub_costs_no_time(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        fetcher = HubFetcher(f"http://127.0.0.1:{closed.getsockname()[1]}", Secret(""))
        started = time.monotonic()
        with pytest.raises(EngineFailed) as caught:
            Puller(ModelStore(tmp_path / "models"), {HubSource: fetcher}).pull(spec_of(SOURCE), Shown())
    assert time.monotonic() - started < 5
    assert "can't be reached: Connection refused" in (caught.value.hint or "")
