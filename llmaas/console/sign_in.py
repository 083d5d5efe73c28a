"""Signing in: password and second factor, or somebody else's word for it; both end in a new session.

Every refusal has one text and takes the time of a password check, so that nobody learns who has an account.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmaas.clock import Clock
from llmaas.console.passwords import Passwords
from llmaas.console.second_factor import SecondFactor
from llmaas.console.throttle import Throttle
from llmaas.domain import sessions
from llmaas.domain.audit import Actor
from llmaas.domain.sessions import Session, SessionStore
from llmaas.domain.users import User, UserStore
from llmaas.errors import NotAuthenticated
from llmaas.ids import IdSource

_MAX_AGENT_CHARS = 200
_ADDRESS = (20, 10.0)
_ACCOUNT = (10, 30.0)


@dataclass(frozen=True, slots=True)
class Browser:
    """Where a sign-in comes from. `token`: of the session that it had before."""

    address: str
    user_agent: str
    token: str | None


class SignIn:
    def __init__(
        self,
        *,
        users: UserStore,
        sessions: SessionStore,
        passwords: Passwords,
        second_factor: SecondFactor,
        clock: Clock,
        ids: IdSource,
        pepper: bytes,
        session_max_ms: int,
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._passwords = passwords
        self.second_factor = second_factor
        self._clock = clock
        self._ids = ids
        self._pepper = pepper
        self._session_max_ms = session_max_ms
        self._addresses = Throttle(clock, burst=_ADDRESS[0], pause_s=_ADDRESS[1])
        self._accounts = Throttle(clock, burst=_ACCOUNT[0], pause_s=_ACCOUNT[1])

    async def with_password(self, email: str, password: str, code: str, browser: Browser) -> tuple[str, User]:
        """The new session's token. `code` may be empty for who has no second factor.

        Raises NotAuthenticated with one text for every reason, RateLimited.
        """
        account = email.strip().lower()
        self._addresses.spend(browser.address)
        self._accounts.spend(account)
        user = await self._users.by_email(account)
        if not await self._knows(user, password, code) or user is None:
            raise NotAuthenticated("The e-mail address, the password or the code is wrong.")
        self._addresses.refund(browser.address)
        self._accounts.refund(account)
        return await self.open_session(user, browser), user

    async def confirm(self, user: User, password: str, address: str) -> None:
        """Ask somebody who is signed in for the password again. Raises NotAuthenticated, RateLimited."""
        self._addresses.spend(address)
        self._accounts.spend(user.email)
        if not await self._passwords.match(user.password_hash, password):
            raise NotAuthenticated("The password is wrong.")
        self._addresses.refund(address)
        self._accounts.refund(user.email)

    def slow_down(self, address: str) -> None:
        """Count a try that is not a password, such as the token of an invitation. Raises RateLimited."""
        self._addresses.spend(address)

    async def open_session(self, user: User, browser: Browser) -> str:
        """A new session for somebody who is known; its token. The browser's earlier session ends: none can be planted."""
        token = sessions.mint()
        now_ms = self._clock.now_ms()
        session = Session(
            id=f"session-{self._ids.uuid7()}",
            token_hash=sessions.hash_token(token, self._pepper),
            user_id=user.id,
            created_ms=now_ms,
            seen_ms=now_ms,
            expires_ms=now_ms + self._session_max_ms,
            address=browser.address,
            user_agent="".join(c for c in browser.user_agent if c.isprintable())[:_MAX_AGENT_CHARS],
        )
        replaces = sessions.hash_token(browser.token, self._pepper) if browser.token else None
        await self._sessions.add(session, replaces=replaces, by=Actor("user", user.id, browser.address))
        return token

    async def _knows(self, user: User | None, password: str, code: str) -> bool:
        good = await self._passwords.match(user.password_hash if user is not None else "", password)
        if not good or user is None or user.disabled_ms is not None:
            return False
        return not user.has_second_factor or await self.second_factor.passes(user, code)
