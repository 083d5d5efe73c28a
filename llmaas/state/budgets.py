"""Leases of money: what the ledger spends of them it moves itself, so only taking and giving back is said to the store."""

from __future__ import annotations

from collections.abc import Sequence

from llmaas.domain.ports import BudgetStore, BudgetWant
from llmaas.state.leases import Answer, Ask


class BudgetLeases:
    reports = False
    workers = 1

    def __init__(self, store: BudgetStore) -> None:
        self._store = store

    async def exchange(self, asks: Sequence[Ask]) -> list[Answer]:
        """A call that fails half-way leaves more leased than is used by anybody here; never less."""
        returned = {ask.rule.id: ask.returned for ask in asks if ask.returned}
        if returned:
            await self._store.give_back(returned)
        asking = [ask for ask in asks if ask.most]
        answers = {ask.rule.id: Answer(0, None, 0) for ask in asks}
        if asking:
            wants = [BudgetWant(ask.rule.id, ask.rule.limit, ask.useful, ask.most) for ask in asking]
            for ask, grant in zip(asking, await self._store.take(wants), strict=True):
                answers[ask.rule.id] = Answer(grant.granted_nano, grant.remaining_nano, 0)
        partial = [ask for ask in asking if answers[ask.rule.id].granted < ask.least]
        if partial:
            standing = await self._store.standing([ask.rule.id for ask in partial])
            for ask in partial:
                answer = answers[ask.rule.id]
                answer.elsewhere = max(0, standing[ask.rule.id].leased_nano - ask.leased - answer.granted)
        return [answers[ask.rule.id] for ask in asks]
