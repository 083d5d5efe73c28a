"""Users: what the people of a project are called, who left and admins included."""

from __future__ import annotations

import dataclasses

from llmaas.domain.audit import SYSTEM
from llmaas.domain.keys import Key
from llmaas.domain.members import Member, Role
from llmaas.domain.projects import Project
from llmaas.domain.users import User
from llmaas.storage.database import Database
from llmaas.storage.keys import SqlKeyStore
from llmaas.storage.members import SqlMemberStore
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.users import SqlUserStore


async def test_names_are_those_of_members_and_of_owners_of_keys(database: Database) -> None:
    users = SqlUserStore(database)
    for name in ("member", "owner", "stranger"):
        user = User(f"user-{name}", f"{name}@example.org", "", False, False, 1)
        await users.add(dataclasses.replace(user, name="Olga" if name == "owner" else ""), by=SYSTEM)
    for project_id in ("lab", "other"):
        await SqlProjectStore(database).add(Project(project_id, project_id, 1), by=SYSTEM)
    await SqlMemberStore(database).add(Member("lab", "user-member", Role.VIEWER, 1), by=SYSTEM)
    keys = SqlKeyStore(database)
    await keys.add(Key("k1", "lab", "one", bytes(32), 1, owner_id="user-owner"), by=SYSTEM)
    await keys.add(Key("k2", "lab", "nobody's", bytes(32), 1), by=SYSTEM)
    await keys.add(Key("k3", "other", "two", bytes(32), 1, owner_id="user-stranger"), by=SYSTEM)
    assert await users.names_in("lab") == {"user-member": "member@example.org", "user-owner": "Olga"}
