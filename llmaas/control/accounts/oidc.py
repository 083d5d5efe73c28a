"""Signing in through an OpenID Connect provider: authorisation code with PKCE, and the check of its ID token.

What has to be remembered between the two steps is in a sealed cookie of the browser. Any doubt ends the sign-in.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx
import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from llmaas.clock import Clock
from llmaas.control.accounts.second_factor import Sealer
from llmaas.errors import EngineFailed, NotAuthenticated

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
PENDING_S = 600
_OWNER = "oidc-sign-in"
_TIMEOUT_S = 10.0
_METADATA_MS = 600_000
_LEEWAY_S = 60
_MAX_ANSWER_BYTES = 256 * 1024
_LOCAL_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIdConfig:
    """`email_domains`: whose addresses the provider may speak for; only for those are users linked or made.

    `redirect_uri`: of our callback. `client_secret`: "" for a public client.
    """

    issuer: str
    client_id: str
    client_secret: str
    redirect_uri: str
    email_domains: tuple[str, ...] = ()
    create_users: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the provider has signed in. `email`: "" unless it is verified and of a domain that the provider may speak for."""

    issuer: str
    subject: str
    email: str
    name: str


class _Metadata(msgspec.Struct, frozen=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


class _Answer(msgspec.Struct, frozen=True):
    id_token: str


class _Pending(msgspec.Struct, frozen=True):
    state: str
    nonce: str
    verifier: str
    next: str
    expires_ms: int


class OpenIdConnect:
    def __init__(self, config: OpenIdConfig, sealer: Sealer, clock: Clock) -> None:
        self.config = config
        self._sealer = sealer
        self._clock = clock
        self._metadata: tuple[int, _Metadata] | None = None
        self._keys: KeySet | None = None
        self._discovering: asyncio.Task[_Metadata] | None = None

    async def begin(self, next_path: str) -> tuple[str, str, str]:
        """Where to send the browser, the `state` that it comes back with, and the value of the cookie to send with it. Raises
        EngineFailed.
        """
        metadata = await self._discover()
        pending = _Pending(
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(48),
            next=local_path(next_path),
            expires_ms=self._clock.now_ms() + PENDING_S * 1000,
        )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(pending.verifier.encode()).digest()).rstrip(b"=").decode()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self.config.client_id,
                "redirect_uri": self.config.redirect_uri,
                "scope": "openid email profile",
                "state": pending.state,
                "nonce": pending.nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        separator = "&" if "?" in metadata.authorization_endpoint else "?"
        sealed = self._sealer.seal(_OWNER, msgspec.json.encode(pending).decode())
        url = f"{metadata.authorization_endpoint}{separator}{query}"
        return url, pending.state, base64.urlsafe_b64encode(sealed).decode()

    async def finish(self, cookie: str, state: str, code: str) -> tuple[Identity, str]:
        """Who came back, and the path to go on to. Raises NotAuthenticated, EngineFailed."""
        pending = self._opened(cookie)
        if not hmac.compare_digest(pending.state.encode(), state.encode()):
            raise _refused()
        metadata = await self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.config.redirect_uri,
            "client_id": self.config.client_id,
            "code_verifier": pending.verifier,
        }
        auth = self._client_auth()
        answer = await self._call("POST", metadata.token_endpoint, data=form, auth=auth)
        try:
            id_token = msgspec.json.decode(answer, type=_Answer).id_token
        except msgspec.MsgspecError as error:
            raise _refused() from error
        return self._identity(await self._verified(id_token, metadata), pending.nonce), pending.next

    def _client_auth(self) -> httpx.BasicAuth | None:
        """In the header, as each server has to take it; both parts encoded as in a form (RFC 6749, 2.3.1)."""
        if not self.config.client_secret:
            return None
        return httpx.BasicAuth(quote_plus(self.config.client_id), quote_plus(self.config.client_secret))

    def _opened(self, cookie: str) -> _Pending:
        try:
            text = self._sealer.open(_OWNER, base64.urlsafe_b64decode(cookie.encode()))
            pending = msgspec.json.decode(text, type=_Pending)
        except (ValueError, msgspec.MsgspecError) as error:
            raise _refused() from error
        if pending.expires_ms <= self._clock.now_ms():
            raise _refused()
        return pending

    async def _verified(self, id_token: str, metadata: _Metadata) -> dict[str, Any]:
        """The claims of a token that the provider signed. Its keys are read anew when none fits: it may have new ones."""
        for attempt in range(2):
            if self._keys is None or attempt:
                self._keys = await self._read_keys(metadata)
            try:
                return jwt.decode(id_token, self._keys, algorithms=ALGORITHMS).claims
            except (JoseError, ValueError) as error:
                failure = error
        raise _refused() from failure

    def _identity(self, claims: dict[str, Any], nonce: str) -> Identity:
        expected = jwt.JWTClaimsRegistry(
            now=self._clock.now_ms() // 1000,
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": self.config.issuer},
            aud={"essential": True, "value": self.config.client_id},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            expected.validate(claims)
        except JoseError as error:
            raise _refused() from error
        audience, subject = claims["aud"], claims["sub"]
        for_others = isinstance(audience, list) and len(audience) > 1
        if (
            (for_others and claims.get("azp") != self.config.client_id)
            or not isinstance(subject, str)
            or len(subject) > 255
        ):
            raise _refused()
        email, name = claims.get("email"), claims.get("name")
        trusted = (
            isinstance(email, str)
            and claims.get("email_verified") is True
            and email.rpartition("@")[2].lower() in self.config.email_domains
        )
        shown = name if isinstance(name, str) and name.isprintable() else ""
        return Identity(self.config.issuer, subject, str(email).lower() if trusted else "", shown[:200])

    async def _discover(self) -> _Metadata:
        """Callers who come together share one call: anybody may come, and the provider may be slow."""
        if self._metadata is not None and self._clock.now_ms() < self._metadata[0] + _METADATA_MS:
            return self._metadata[1]
        if self._discovering is None or self._discovering.done():
            self._discovering = asyncio.create_task(self._read_metadata())
        return await asyncio.shield(self._discovering)

    async def _read_metadata(self) -> _Metadata:
        body = await self._call("GET", f"{self.config.issuer.rstrip('/')}/.well-known/openid-configuration")
        try:
            metadata = msgspec.json.decode(body, type=_Metadata)
        except msgspec.MsgspecError as error:
            raise _unusable("its configuration cannot be read") from error
        scheme = urlsplit(self.config.issuer).scheme
        places = (metadata.authorization_endpoint, metadata.token_endpoint, metadata.jwks_uri)
        if metadata.issuer != self.config.issuer or any(urlsplit(place).scheme != scheme for place in places):
            raise _unusable("its configuration is of another issuer")
        self._metadata, self._keys = (self._clock.now_ms(), metadata), None
        return metadata

    async def _read_keys(self, metadata: _Metadata) -> KeySet:
        body = await self._call("GET", metadata.jwks_uri)
        try:
            return KeySet.import_key_set(msgspec.json.decode(body))
        except (msgspec.MsgspecError, JoseError, ValueError, KeyError, TypeError) as error:
            raise _unusable("its keys cannot be read") from error

    async def _call(self, method: str, url: str, **options: Any) -> bytes:
        """The body of a good answer. A 4xx is a refusal of this sign-in, anything else the provider's failure."""
        try:
            async with (
                httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
                client.stream(method, url, headers={"accept": "application/json"}, **options) as answer,
            ):
                body = b""
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > _MAX_ANSWER_BYTES:
                        raise _unusable("it sends too much")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unusable("it does not answer") from error
        if method == "POST" and 400 <= answer.status_code < 500:
            raise _refused()
        if answer.status_code != 200:
            raise _unusable(f"it answers {answer.status_code}")
        return body


def local_path(text: str) -> str:
    """A path of this service, such as `/usage?month=2026-11`; `/` for everything else, addresses of others among it."""
    return text if len(text) <= 1000 and _LOCAL_PATH.fullmatch(text) else "/"


def _refused() -> NotAuthenticated:
    return NotAuthenticated("The sign-in could not be completed. Start again.")


def _unusable(why: str) -> EngineFailed:
    return EngineFailed(f"The sign-in provider cannot be used: {why}.")
