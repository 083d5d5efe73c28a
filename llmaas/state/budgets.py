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
        """What of a call that fails has happened, the next one puts right."""
        if not asks:
            return []
        wants = [BudgetWant(ask.rule.id, ask.rule.limit, ask.useful, ask.most, ask.net) for ask in asks]
        answers = {
            ask.rule.id: Answer(grant.granted_nano, grant.remaining_nano if ask.most else None, 0, grant.net_nano)
            for ask, grant in zip(asks, await self._store.take(wants), strict=True)
        }
        partial = [ask for ask in asks if answers[ask.rule.id].granted < ask.least]
        if partial:
            standing = await self._store.standing([ask.rule.id for ask in partial])
            for ask in partial:
                answer = answers[ask.rule.id]
                answer.elsewhere = max(0, standing[ask.rule.id].leased_nano - ask.leased - answer.granted)
            wanted = [ask.rule.id for ask in partial if answers[ask.rule.id].elsewhere]
            if wanted:
                await self._store.call_back(wanted)
        return [answers[ask.rule.id] for ask in asks]
