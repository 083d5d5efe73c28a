"""Who may do what on the admin API, in one table: permission × role in a project × kind of credential."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from llmaas.domain.members import Role


class Permission(StrEnum):
    """What a route needs, named `nouns:verb`, in alphabetical order."""

    ACCOUNT_CHANGE = "account:change"
    ACCOUNT_READ = "account:read"
    AUDIT_READ = "audit:read"
    CREDIT_ADD = "credit:add"
    CREDIT_READ = "credit:read"
    FLEET_CHANGE = "fleet:change"
    FLEET_READ = "fleet:read"
    INVITATIONS_CREATE = "invitations:create"
    INVITATIONS_READ = "invitations:read"
    INVITATIONS_REVOKE = "invitations:revoke"
    KEYS_CHANGE = "keys:change"
    KEYS_CREATE = "keys:create"
    KEYS_READ = "keys:read"
    KEYS_REVOKE = "keys:revoke"
    MEMBERS_ADD = "members:add"
    MEMBERS_CHANGE = "members:change"
    MEMBERS_LEAVE = "members:leave"
    MEMBERS_READ = "members:read"
    MEMBERS_REMOVE = "members:remove"
    PROJECTS_ARCHIVE = "projects:archive"
    PROJECTS_CHANGE = "projects:change"
    PROJECTS_CREATE = "projects:create"
    PROJECTS_LIST = "projects:list"
    PROJECTS_READ = "projects:read"
    PROJECTS_SET_TERMS = "projects:set-terms"
    SESSIONS_READ = "sessions:read"
    SESSIONS_REVOKE = "sessions:revoke"
    TOKENS_CREATE = "tokens:create"
    TOKENS_READ = "tokens:read"
    TOKENS_REVOKE = "tokens:revoke"
    USAGE_READ = "usage:read"
    USERS_CHANGE = "users:change"
    USERS_CREATE = "users:create"
    USERS_READ = "users:read"


class Credential(StrEnum):
    """By what somebody is known: a signed-in browser, or a personal access token. API keys of `/v1` may nothing here."""

    SESSION = "session"
    TOKEN = "token"


@dataclass(frozen=True, slots=True)
class Rule:
    """`roles`: members of the project that the route is about; without a project in the route they have no say.

    `everyone`: who is signed in, for what is their own. Admins have every permission.
    """

    roles: frozenset[Role]
    everyone: bool
    credentials: frozenset[Credential]

    def allows(self, *, admin: bool, role: Role | None) -> bool:
        return admin or self.everyone or role in self.roles


_ANY = frozenset(Credential)
_SESSION = frozenset({Credential.SESSION})
_MEMBERS = frozenset(Role)
_MAKERS = frozenset({Role.DEVELOPER, Role.OWNER})
_OWNERS = frozenset({Role.OWNER})
_NOBODY: frozenset[Role] = frozenset()


def _everyone(credentials: frozenset[Credential] = _ANY) -> Rule:
    return Rule(_NOBODY, everyone=True, credentials=credentials)


def _of(roles: frozenset[Role], credentials: frozenset[Credential] = _ANY) -> Rule:
    return Rule(roles, everyone=False, credentials=credentials)


def _admins(credentials: frozenset[Credential] = _ANY) -> Rule:
    return Rule(_NOBODY, everyone=False, credentials=credentials)


RULES: dict[Permission, Rule] = {
    Permission.ACCOUNT_CHANGE: _everyone(_SESSION),
    Permission.ACCOUNT_READ: _everyone(),
    Permission.AUDIT_READ: _of(_OWNERS),
    Permission.CREDIT_ADD: _admins(),
    Permission.CREDIT_READ: _of(_MEMBERS),
    Permission.FLEET_CHANGE: _admins(),
    Permission.FLEET_READ: _admins(),
    Permission.INVITATIONS_CREATE: _of(_OWNERS),
    Permission.INVITATIONS_READ: _of(_OWNERS),
    Permission.INVITATIONS_REVOKE: _of(_OWNERS),
    Permission.KEYS_CHANGE: _of(_MAKERS),
    Permission.KEYS_CREATE: _of(_MAKERS),
    Permission.KEYS_READ: _of(_MEMBERS),
    Permission.KEYS_REVOKE: _of(_MAKERS),
    Permission.MEMBERS_ADD: _admins(),
    Permission.MEMBERS_CHANGE: _of(_OWNERS),
    Permission.MEMBERS_LEAVE: _of(_MEMBERS, _SESSION),
    Permission.MEMBERS_READ: _of(_MEMBERS),
    Permission.MEMBERS_REMOVE: _of(_OWNERS),
    Permission.PROJECTS_ARCHIVE: _admins(),
    Permission.PROJECTS_CHANGE: _of(_OWNERS),
    Permission.PROJECTS_CREATE: _admins(),
    Permission.PROJECTS_LIST: _everyone(),
    Permission.PROJECTS_READ: _of(_MEMBERS),
    Permission.PROJECTS_SET_TERMS: _admins(),
    Permission.SESSIONS_READ: _everyone(_SESSION),
    Permission.SESSIONS_REVOKE: _everyone(_SESSION),
    Permission.TOKENS_CREATE: _everyone(_SESSION),
    Permission.TOKENS_READ: _everyone(_SESSION),
    Permission.TOKENS_REVOKE: _everyone(_SESSION),
    Permission.USAGE_READ: _of(_MEMBERS),
    Permission.USERS_CHANGE: _admins(_SESSION),
    Permission.USERS_CREATE: _admins(_SESSION),
    Permission.USERS_READ: _admins(),
}
