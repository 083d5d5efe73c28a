"""Which environment variables a provider may name as the place of its credential. Pure; nothing is read here.

What stands in a variable is sent to the servers of the provider that names it, and whoever may declare providers says where those are.
So only what was put there to be sent may be named, and never one of this service's own settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

OWN_VARIABLES = "LLMAAS_"
"""How the environment variables of our own settings begin."""
PROVIDER_VARIABLES = "LLMAAS_PROVIDER_"
"""How those begin that any provider may name. No setting of ours does."""
_LIKE_A_VARIABLE = re.compile(r"(?=[A-Z0-9]*_|[A-Z]+\Z)[A-Z][A-Z0-9_]{0,59}")
_BEGINNING = re.compile(r"LLMAAS_(PROVIDERS?(_|\Z))?")


def is_own(variable: str) -> bool:
    """Whether it is one of this service's own settings."""
    return variable.startswith(OWN_VARIABLES) and not variable.startswith(PROVIDER_VARIABLES)


class CredentialVariables:
    """`patterns`: names that an operator allows besides; `*` stands for any characters."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._patterns = tuple(patterns)

    def fault(self, variable: str) -> str | None:
        """Why no provider may name it, None when one may. It does not show the name, which may be a credential by mistake."""
        if is_own(variable):
            return f"must not begin with {OWN_VARIABLES}, except for {PROVIDER_VARIABLES}: those are this service's own"
        if variable.startswith(PROVIDER_VARIABLES) or any(fnmatchcase(variable, one) for one in self._patterns):
            return None
        return f"must begin with {PROVIDER_VARIABLES}, or be allowed by the setting credential_variables"


def quoted(variable: str) -> str:
    """What a message adds about a name that is refused: the name and the likely right one. Nothing when the text may be a credential
    that stands in the wrong place: it has small letters, other signs or digits without a `_`, or it is long.
    """
    if not _LIKE_A_VARIABLE.fullmatch(variable):
        return ""
    rest = _BEGINNING.sub("", variable, count=1)
    return f', not "{variable}"' + (f'; did you mean "{PROVIDER_VARIABLES}{rest}"?' if rest else "")
