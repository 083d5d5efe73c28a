"""The master key of an installation and what is made from it: the pepper of key hashes, the cipher of provider credentials."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmaas.errors import ConfigurationError

_KEY_BYTES = 32
_NONCE_BYTES = 12
_ID_BYTES = 8
_MARK = b"lmk1"
_HEAD_BYTES = len(_MARK) + _ID_BYTES


def read_or_make_master_key(path: Path) -> bytes:
    """32 bytes from a file of mode 0600, made on first use. Two processes that race to make it end with the same one."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(handle, os.urandom(_KEY_BYTES))
                os.fsync(handle)
            finally:
                os.close(handle)
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        key = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            [f"master key {path}: {error.strerror}; check data_dir and its permissions"]
        ) from error
    if len(key) != _KEY_BYTES:
        raise ConfigurationError([f"master key {path}: must hold {_KEY_BYTES} bytes; restore it from a backup"])
    return key


def pepper_of(master_key: bytes) -> bytes:
    """The key of the hash under which secrets of API keys are stored, of an installation whose master key never changed."""
    return blake2b(b"api-key-pepper", key=master_key, digest_size=32).digest()


class SecretBox:
    """AES-256-GCM; the owner's id is authenticated with the text, so a ciphertext works in no other row.

    What is sealed says by which key. `path`: the file that the key is from; a key that took its place there, or that is
    going to, is used as soon as it is met, so a running process follows a rotation. None: the key was given.
    """

    def __init__(self, master_key: bytes, path: Path | None = None) -> None:
        self._given = master_key
        self.path = path
        self._keys = {key_id(master_key): master_key}

    def seal(self, owner: str, text: str) -> bytes:
        present = self._given if self.path is None else (_read_key(self.path) or self._given)
        return seal_with(present, owner, text)

    def open(self, owner: str, sealed: bytes) -> str:
        """Raises ValueError when it was sealed with another master key, for another owner, or was changed."""
        marked = sealed.startswith(_MARK)
        wanted = sealed[len(_MARK) : _HEAD_BYTES] if marked else b""
        if self.path is not None and wanted not in self._keys:
            self._keys.update((key_id(key), key) for key in read_master_keys(self.path))
        if marked and wanted in self._keys:
            tried, text = [self._keys[wanted]], sealed[_HEAD_BYTES:]
        else:
            tried, text = list(self._keys.values()), sealed  # of a version that did not say by which key
        for master_key in tried:
            try:
                return _cipher(master_key).decrypt(text[:_NONCE_BYTES], text[_NONCE_BYTES:], owner.encode()).decode()
            except (InvalidTag, ValueError):
                continue
        raise ValueError(f"the stored credential of `{owner}` does not open with this master key")


def key_id(master_key: bytes) -> bytes:
    """Names a master key without telling it."""
    return blake2b(b"master-key-id", key=master_key, digest_size=_ID_BYTES).digest()


def sealed_by(sealed: bytes, master_key: bytes) -> bool:
    return sealed.startswith(_MARK + key_id(master_key))


def seal_with(master_key: bytes, owner: str, text: str) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    sealed = _cipher(master_key).encrypt(nonce, text.encode(), owner.encode())
    return _MARK + key_id(master_key) + nonce + sealed


def _cipher(master_key: bytes) -> AESGCM:
    return AESGCM(blake2b(b"provider-secrets", key=master_key, digest_size=32).digest())


def next_path(path: Path) -> Path:
    """Where the key lies that is going to take the place of the one at `path`."""
    return path.with_name(f"{path.name}.next")


def previous_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def read_master_keys(path: Path) -> list[bytes]:
    """The present one, the next and the previous, as far as they are there."""
    found = (_read_key(place) for place in (path, next_path(path), previous_path(path)))
    return [key for key in found if key is not None]


def make_next_key(path: Path) -> bytes:
    """A new key beside the present one; the one that an interrupted rotation left, if there is one. Raises ConfigurationError."""
    return read_or_make_master_key(next_path(path))


def promote_next_key(path: Path) -> None:
    """The next key takes the place of the present one, which stays beside it as the previous one."""
    present, following = _read_key(path), _read_key(next_path(path))
    if following is None:
        return
    if present is not None and present != following:
        previous = previous_path(path)
        previous.unlink(missing_ok=True)
        os.link(path, previous)
    next_path(path).replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_key(path: Path) -> bytes | None:
    try:
        key = path.read_bytes()
    except OSError:
        return None
    return key if len(key) == _KEY_BYTES else None
