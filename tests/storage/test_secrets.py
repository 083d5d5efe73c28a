"""The master key and what it seals."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.errors import ConfigurationError
from llmaas.storage.secrets import SecretBox, pepper_of, read_or_make_master_key


def test_the_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "data" / "master.key"
    key = read_or_make_master_key(path)
    assert len(key) == 32
    assert read_or_make_master_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["master.key"]


def test_all_who_race_to_make_it_end_with_the_same(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: read_or_make_master_key(path), range(8)))
    assert keys == {path.read_bytes()}


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="backup"):
        read_or_make_master_key(path)
    assert path.read_bytes() == content


@given(owner=st.text(st.characters(codec="utf-8")), text=st.text(st.characters(codec="utf-8")))
def test_what_is_sealed_opens_for_its_owner(owner: str, text: str) -> None:
    box = SecretBox(b"k" * 32)
    assert box.open(owner, box.seal(owner, text)) == text


def test_A14_a_ciphertext_of_another_row_or_another_key_does_not_open() -> None:
    box = SecretBox(b"k" * 32)
    sealed = box.seal("lab", "sk-canary")
    assert b"canary" not in sealed
    assert box.seal("lab", "sk-canary") != sealed
    for other, owner, text in (
        (box, "lab2", sealed),
        (SecretBox(b"l" * 32), "lab", sealed),
        (box, "lab", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (box, "lab", sealed[:20]),
        (box, "lab", b""),
    ):
        with pytest.raises(ValueError, match="`lab") as refused:
            other.open(owner, text)
        assert "canary" not in str(refused.value)


def test_the_pepper_is_not_the_key() -> None:
    assert pepper_of(b"k" * 32) != b"k" * 32
    assert pepper_of(b"k" * 32) != pepper_of(b"l" * 32)
