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
    """The key of the hash under which secrets of API keys are stored."""
    return blake2b(b"api-key-pepper", key=master_key, digest_size=32).digest()


class SecretBox:
    """AES-256-GCM; the owner's id is authenticated with the text, so a ciphertext works in no other row."""

    def __init__(self, master_key: bytes) -> None:
        self._cipher = AESGCM(blake2b(b"provider-secrets", key=master_key, digest_size=32).digest())

    def seal(self, owner: str, text: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), owner.encode())

    def open(self, owner: str, sealed: bytes) -> str:
        """Raises ValueError when it was sealed with another master key, for another owner, or was changed."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], owner.encode()).decode()
        except (InvalidTag, ValueError):
            raise ValueError(f"the stored credential of `{owner}` does not open with this master key") from None
