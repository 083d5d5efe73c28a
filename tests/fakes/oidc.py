"""A small OpenID Connect provider on loopback: everybody who comes is signed in as `person`. It lies on demand."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

import uvicorn
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey

CLIENT_ID = "llmaas"
CLIENT_SECRET = "client secret"


class FakeOidc:
    """`claims` are put over the right ones of the next ID tokens; None takes one away.

    `algorithm`: "none" leaves the token unsigned, "HS256" signs with the client's secret. `forged`: sign with a key of
    somebody else. `metadata` is put over the right configuration. `refusals`: so many of the next browsers come back with a wrong code.
    """

    def __init__(self, now_s: int) -> None:
        self.now_s = now_s
        self.person: dict[str, Any] = {"sub": "s-1", "email": "ana@example.org", "email_verified": True, "name": "Ana"}
        self.claims: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.algorithm = "ES256"
        self.forged = False
        self.refusals = 0
        self.asked: list[dict[str, str]] = []
        self.discoveries = 0
        self.key = ECKey.generate_key("P-256", {"kid": "one"})
        self._codes: dict[str, dict[str, str]] = {}
        self._port = 0

    async def __aenter__(self) -> Self:
        config = uvicorn.Config(self._app, host="127.0.0.1", port=0, log_config=None, lifespan="off", interface="asgi3")
        self._server = uvicorn.Server(config)
        self._running = asyncio.create_task(self._server.serve())
        async with asyncio.timeout(10):
            while not self._server.started:
                await asyncio.sleep(0.01)
        self._port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        await self._running

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def consent(self, url: str) -> dict[str, str]:
        """What the browser brings back after the person agreed: the query of the redirect address."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        code = secrets.token_urlsafe(16)
        self._codes[code] = query
        return {"code": code, "state": query["state"]}

    def _sent_back(self, query: str) -> str:
        brought = self.consent(f"/authorize?{query}")
        if self.refusals:
            self.refusals -= 1
            brought["code"] = "refused"
        return f"{parse_qs(query)['redirect_uri'][0]}?{urlencode(brought)}"

    def rotate_key(self) -> None:
        self.key = ECKey.generate_key("P-256", {"kid": secrets.token_hex(4)})

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(b"content-type", b"application/json")]
        match scope["path"]:
            case "/authorize":
                status, answer = 302, {}
                headers.append((b"location", self._sent_back(scope["query_string"].decode()).encode()))
            case "/.well-known/openid-configuration":
                self.discoveries += 1
                status, answer = 200, self._configuration()
            case "/keys":
                status, answer = 200, dict(KeySet([self.key]).as_dict(private=False))
            case "/token":
                form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
                status, answer = self._token(form, dict(scope["headers"]))
            case _:
                status, answer = 404, {}
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def _configuration(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            **self.metadata,
        }

    def _token(self, form: Mapping[str, str], headers: Mapping[bytes, bytes]) -> tuple[int, dict[str, Any]]:
        self.asked.append(dict(form))
        basic = base64.b64encode(f"{quote_plus(CLIENT_ID)}:{quote_plus(CLIENT_SECRET)}".encode())
        query = self._codes.pop(form.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        good = (
            query is not None
            and headers.get(b"authorization") == b"Basic " + basic
            and form["redirect_uri"] == query["redirect_uri"]
            and query["code_challenge_method"] == "S256"
            and query["code_challenge"] == challenge.rstrip(b"=").decode()
        )
        if not good or query is None:
            return 400, {"error": "invalid_grant"}
        return 200, {"token_type": "Bearer", "access_token": "unused", "id_token": self._id_token(query["nonce"])}

    def _id_token(self, nonce: str) -> str:
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": self.now_s,
            "exp": self.now_s + 300,
            "nonce": nonce,
            **self.person,
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.algorithm == "none":
            parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
            return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."
        header = {"alg": self.algorithm, "kid": self.key.kid}
        if self.algorithm == "HS256":
            return jwt.encode(header, claims, OctKey.import_key(CLIENT_SECRET * 3), ["HS256"])
        key = ECKey.generate_key("P-256", {"kid": str(self.key.kid)}) if self.forged else self.key
        return jwt.encode(header, claims, key, [self.algorithm])
