"""`config rotate-master-key`: API keys go on, credentials open with the new key, nothing of either is printed."""

from __future__ import annotations

import asyncio
import base64

import pytest

from llmaas.datadir import Installation
from llmaas.domain import keys as keys_domain
from llmaas.settings import load
from tests.cli.running import Cli

CREDENTIAL = "sk-canary-1"


def fill(cli: Cli) -> str:
    cli.good("providers", "add", "lab", "--kind", "openai", "--base-url", "http://127.0.0.1:9/v1")
    cli.good("providers", "set-secret", "lab", stdin=CREDENTIAL)
    token: str = cli.good("keys", "create", "--name", "k", "--json").json["key"]
    return token


def works(cli: Cli, token: str, **environment: str) -> bool:
    """Whether the key's hash is still its own and the credential opens."""

    async def look() -> bool:
        installation = await Installation(load({"data_dir": cli.data_dir}, environment).settings).open()
        try:
            presented = keys_domain.parse(token)
            assert presented is not None
            key = await installation.keys.get(presented.kid)
            provider = (await installation.catalogue.fleet()).providers[0]
            credential = await installation.credential_of(provider)
            assert key is not None
            assert credential is not None
            same = key.secret_hash == keys_domain.hash_secret(presented, installation.pepper)
            return same and credential.reveal() == CREDENTIAL
        finally:
            await installation.close()

    return asyncio.run(look())


def test_everything_goes_on(llmaas: Cli) -> None:
    token = fill(llmaas)
    path = llmaas.data_dir / "master.key"
    first = path.read_bytes()
    for _ in range(2):
        ran = llmaas.good("config", "rotate-master-key")
        assert ran.out == "sealed anew: 1\n"
        assert CREDENTIAL not in ran.out + ran.err
        assert works(llmaas, token)
    assert path.read_bytes() != first
    (llmaas.data_dir / "master.key.previous").unlink()
    assert works(llmaas, token)
    path.write_bytes(first)
    refused = llmaas("keys", "list")
    assert refused.code == 3
    assert refused.errors[0].startswith("master_key: it is not the one of this database")


def test_a_key_that_is_a_setting_is_replaced_by_one_that_is_given(llmaas: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = ((llmaas.data_dir / "master.key").read_bytes(), b"n" * 32)
    monkeypatch.setenv("LLMAAS_MASTER_KEY", base64.b64encode(old).decode())
    token = fill(llmaas)
    assert llmaas("config", "rotate-master-key").code == 1
    assert llmaas("config", "rotate-master-key", stdin="c2hvcnQ=\n").code == 1
    told = base64.b64encode(new).decode()
    ran = llmaas.good("config", "rotate-master-key", stdin=f"{told}\n")
    assert told not in ran.out + ran.err
    assert works(llmaas, token, LLMAAS_MASTER_KEY=told)
    assert llmaas("keys", "list").code == 3
