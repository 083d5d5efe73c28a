"""Leases of money: what the ledger spends of them it moves itself, so only taking and giving back is said to the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmaas.domain.ports import BudgetStore, BudgetWant
from llmaas.errors import Unavailable
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
            try:
                await self._look_elsewhere(partial, answers)
            except Unavailable:
                # What was granted is heard all the same, or it would be nobody's. Nobody knows what others hold, so it may be something.
                for ask in partial:
                    answers[ask.rule.id].elsewhere = 1
        return [answers[ask.rule.id] for ask in asks]

    async def _look_elsewhere(self, partial: Sequence[Ask], answers: Mapping[str, Answer]) -> None:
        """Raises Unavailable."""
        standing = await self._store.standing([ask.rule.id for ask in partial])
        for ask in partial:
            answer = answers[ask.rule.id]
            answer.elsewhere = max(0, standing[ask.rule.id].leased_nano - ask.leased - answer.granted)
        wanted = [ask.rule.id for ask in partial if answers[ask.rule.id].elsewhere]
        if wanted:
            await self._store.call_back(wanted)
