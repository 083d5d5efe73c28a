"""Signing in: password and second factor, or somebody else's word for it; both end in a new session.

Every refusal has one text and takes the time of a password check, so that nobody learns who has an account; only who knows the
password is told that the code of the second factor is missing, and that counts as a guess all the same. Guesses are slowed
down by address and by account. A browser that has signed in to an account before proves it by a cookie and has a count of its
own there: strangers who guess keep nobody out (OWASP, "Slow Down Online Guessing Attacks with Device Cookies").
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import structlog

from llmaas.clock import Clock
from llmaas.control.accounts.passwords import Passwords, crowded
from llmaas.control.accounts.second_factor import SecondFactor
from llmaas.domain import sessions
from llmaas.domain.audit import Actor
from llmaas.domain.sessions import Session, SessionStore
from llmaas.domain.users import User, UserStore
from llmaas.errors import EngineError, NotAuthenticated, RateLimited, Unavailable
from llmaas.ids import IdSource
from llmaas.web.throttle import AddressThrottle, Throttle

_MAX_AGENT_CHARS = 200
_MAX_EMAIL_CHARS = 254
_ADDRESS = (20, 10.0)
_ACCOUNT = (10, 30.0)
"""How many tries at once, and then one each so many seconds."""
_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.console")


@dataclass(frozen=True, slots=True)
class Browser:
    """Where a sign-in comes from. `token`: of the session that it had before; `proof`: that it signed in before."""

    address: str
    user_agent: str
    token: str | None
    proof: str = ""


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
        self._addresses = AddressThrottle(clock, burst=_ADDRESS[0], pause_s=_ADDRESS[1])
        self._accounts = Throttle(clock, burst=_ACCOUNT[0], pause_s=_ACCOUNT[1])
        self._known = Throttle(clock, burst=_ACCOUNT[0], pause_s=_ACCOUNT[1])

    async def with_password(self, email: str, password: str, code: str, browser: Browser) -> tuple[str, User]:
        """The new session's token. `code` may be empty for who has no second factor.

        Raises NotAuthenticated with one text for every reason, but with `param` "code" when only that is missing; RateLimited.
        """
        account = email.strip().lower()
        user = await self._users.by_email(account) if len(account) <= _MAX_EMAIL_CHARS else None
        counts = self._counts(user, account, browser)
        try:
            if self._passwords.busy and not self._is_known(user, browser):
                raise crowded()
            with _guess(counts):
                if not await self._knows(user, password, code) or user is None:
                    raise _wrong()
                return await self.open_session(user, browser), user
        except (NotAuthenticated, RateLimited) as error:
            # Who watches the log may shut an address out. Whose account it is about is left out: it may be a password.
            if error.param == "code":
                raise
            wrong = isinstance(error, NotAuthenticated)
            _log.warning("sign_in_failed", address=browser.address, reason="wrong" if wrong else "too_many")
            raise (_wrong() if wrong else error) from None

    async def confirm(self, user: User, password: str) -> None:
        """Ask somebody who is signed in for the password again. Raises NotAuthenticated, RateLimited."""
        with _guess([(self._known, user.id)]):
            if not await self._passwords.match(user.password_hash, password):
                raise NotAuthenticated("The password is wrong.")

    @contextmanager
    def guessing(self, address: str) -> Iterator[None]:
        """What fails within counts as a guess, such as the token of an invitation. Raises RateLimited."""
        with _guess([(self._addresses, address)]):
            yield

    def guessed(self, address: str) -> None:
        """Count a guess that was wrong. Raises RateLimited."""
        self._addresses.spend(address)

    def proof(self, user: User) -> str:
        """For a browser that has signed in, to be shown the next time. A new password makes it worthless."""
        nonce = secrets.token_hex(16)
        return f"{nonce}.{self._signature(user, nonce)}"

    def _counts(self, user: User | None, account: str, browser: Browser) -> list[tuple[Throttle, str]]:
        if self._is_known(user, browser):
            return [(self._known, browser.proof.partition(".")[0])]
        digest = blake2b(account.encode(), digest_size=16).hexdigest()
        return [(self._addresses, browser.address), (self._accounts, digest)]

    def _is_known(self, user: User | None, browser: Browser) -> bool:
        """Whether this browser signed in to this account before."""
        nonce, _, signature = browser.proof.partition(".")
        return user is not None and hmac.compare_digest(signature.encode(), self._signature(user, nonce).encode())

    def _signature(self, user: User, nonce: str) -> str:
        proved = f"known-browser\n{user.id}\n{user.password_hash}\n{nonce}"
        return blake2b(proved.encode(), digest_size=16, key=self._pepper).hexdigest()

    async def open_session(self, user: User, browser: Browser) -> str:
        """A new session for `user`, as read when the credentials were verified; its token. The browser's earlier session ends:
        none can be planted. Raises NotAuthenticated when the user's credentials were changed meanwhile.
        """
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
        by = Actor("user", user.id, browser.address)
        await self._sessions.add(session, verified=user, replaces=replaces, by=by)
        return token

    async def _knows(self, user: User | None, password: str, code: str) -> bool:
        good = await self._passwords.match(user.password_hash if user is not None else "", password)
        if not good or user is None or user.disabled_ms is not None:
            return False
        if user.has_second_factor and not code.strip():
            raise NotAuthenticated("Type the code that your authenticator shows, or a recovery code.", param="code")
        return not user.has_second_factor or await self.second_factor.passes(user, code)


def _wrong() -> NotAuthenticated:
    """One text for every reason, a password that was changed while it was checked among them."""
    return NotAuthenticated("The e-mail address, the password or the code is wrong.")


@contextmanager
def _guess(counts: Sequence[tuple[Throttle, str]]) -> Iterator[None]:
    """Counted before it is tried, so that many at once are no way around. What told nobody whether the guess was right gives it
    back too: it was the database, or the sign-in provider, that failed.
    """
    for throttle, name in counts:
        throttle.spend(name)
    try:
        yield
    except (Unavailable, EngineError, RateLimited):
        _refund(counts)
        raise
    _refund(counts)


def _refund(counts: Sequence[tuple[Throttle, str]]) -> None:
    for throttle, name in counts:
        throttle.refund(name)
