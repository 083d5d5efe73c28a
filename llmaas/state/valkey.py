"""Shared counters in Valkey. One script call says everything that a worker has to say and gives it what it asked for.

A worker states its leases and all that it ever used, not changes, so that a lost answer or a repeated call does no harm. Workers
that were not heard of for a while are taken for dead: what they leased of a rate or window counts as used, slots come free. One
that was alive after all says what it used since it was last heard (`own`), unless the counter begins anew from what is recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from valkey.asyncio import Valkey
from valkey.asyncio.retry import Retry
from valkey.backoff import NoBackoff
from valkey.exceptions import NoScriptError, ValkeyError

from llmaas.domain.ports import UsageSums
from llmaas.domain.rates import SCALE
from llmaas.errors import Unavailable
from llmaas.state.leases import Answer, Ask
from llmaas.state.rules import Kind, Rule

_GRACE_S = 0.005
_DEAD_MS = 10_000
_TTL_MS = 3 * 3_600_000
_UNKNOWN = -1
_MOST_ASKS = 400
# One slot of a cluster for all: the script moves the counters of a whole chain together.
_PREFIX = "{llmaas}:"

T = TypeVar("T")

_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, seq, dead_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local seen, alive, count = redis.call('HGETALL', KEYS[1]), {}, 0
for i = 1, #seen, 2 do
  local at, last = string.match(seen[i + 1], '^(%d+) (%d+)$')
  if seen[i] == me then
    if tonumber(last) >= seq then return {0} end
  elseif now - tonumber(at) > dead_ms then
    redis.call('HDEL', KEYS[1], seen[i])
  else
    alive[seen[i]] = true
    count = count + 1
  end
end
redis.call('HSET', KEYS[1], me, string.format('%.0f %.0f', now, seq))
local out = {count + 1}
for k = 2, #KEYS do
  local n = {}
  for number in string.gmatch(ARGV[k + 3], '%S+') do n[#n + 1] = tonumber(number) end
  local limit, scale, drain, leased, idle, used, own, least, most, useful, seed, folds = unpack(n)
  local fields = redis.call('HGETALL', KEYS[k])
  local level, at, others, elsewhere, before
  others, elsewhere = 0, 0
  local lost = 0
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if name == 'level' then level = tonumber(value)
    elseif name == 'at' then at = tonumber(value)
    else
      local l, f, u = string.match(value, '^(%d+) (%d+) (%d+)$')
      if name == me then before = tonumber(u)
      elseif alive[name] then
        others = others + l
        elsewhere = elsewhere + f
      else
        lost = lost + l * folds
        redis.call('HDEL', KEYS[k], name)
      end
    end
  end
  local seeded = not level
  if seeded and seed < 0 then
    out[#out + 1], out[#out + 2], out[#out + 3] = -1, 0, 0
  else
    level = level or seed * scale
    if drain > 0 and at and now > at then level = math.max(0, level - (now - at) * drain) end
    level = level + lost * scale
    if before then level = level + math.max(0, used - before) * scale
    elseif drain > 0 or not seeded then level = level + own end
    local room = limit * scale - level - (others + leased) * scale
    local granted = math.max(0, math.min(most, math.floor(room / scale)))
    if granted < useful then granted = 0 end
    redis.call('HSET', KEYS[k], 'level', string.format('%.0f', level), 'at', string.format('%.0f', now),
      me, string.format('%.0f %.0f %.0f', leased + granted, idle + math.max(0, granted - least), used))
    redis.call('PEXPIRE', KEYS[k], ARGV[4])
    out[#out + 1], out[#out + 2], out[#out + 3] = granted, room - granted * scale, elsewhere
  end
end
return out
"""


class ValkeyCounters:
    """`worker_id`: of this process for its life. `workers`: how many there are at least. `timeout_s`: longest wait for an answer."""

    reports = True

    def __init__(self, url: str, worker_id: str, sums: UsageSums, *, workers: int, timeout_s: float) -> None:
        self.workers = workers
        self._least_workers = workers
        self._worker_id = worker_id
        self._sums = sums
        self._seq = 0
        self._timeout_s = timeout_s
        # Without time-outs of its own: `_in_time` judges each call as a whole.
        self._client = Valkey.from_url(
            url, socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 0)
        )
        self._sha = ""

    async def exchange(self, asks: Sequence[Ask]) -> list[Answer]:
        answers: list[Answer] = []
        for at in range(0, max(1, len(asks)), _MOST_ASKS):
            answers += await self._exchange(asks[at : at + _MOST_ASKS])
        return answers

    async def _exchange(self, asks: Sequence[Ask]) -> list[Answer]:
        answers = await self._say(asks, [_UNKNOWN if ask.rule.kind is Kind.OUTPUT else 0 for ask in asks])
        unknown = [at for at, answer in enumerate(answers) if answer.granted < 0]
        if unknown:
            seeds = [await self._seed(asks[at].rule) for at in unknown]
            seeded = await self._say([asks[at] for at in unknown], seeds)
            for at, answer in zip(unknown, seeded, strict=True):
                answers[at] = answer if answer.granted >= 0 else Answer(0, 0, 0)
        return answers

    async def _seed(self, rule: Rule) -> int:
        """What a window begins with. While nobody can tell it stays unknown, and nothing is granted."""
        try:
            return await self._sums.output_tokens_since(rule.scope, rule.from_ms or 0)
        except Unavailable:
            return _UNKNOWN

    async def ping(self) -> None:
        """Raises Unavailable when it does not answer in time."""
        await self._in_time(self._client.execute_command("PING"))

    async def close(self) -> None:
        await self._client.aclose()

    async def _say(self, asks: Sequence[Ask], seeds: Sequence[int]) -> list[Answer]:
        self._seq += 1
        keys = [f"{_PREFIX}workers", *(f"{_PREFIX}{ask.rule.id}" for ask in asks)]
        said = [_line(ask, seed) for ask, seed in zip(asks, seeds, strict=True)]
        arguments: list[str | int] = [self._worker_id, self._seq, _DEAD_MS, _TTL_MS, *said]
        reply = await self._in_time(self._run(keys, arguments))
        if not reply[0]:
            raise Unavailable("Valkey knows a later message of this worker.")
        self.workers = max(self._least_workers, reply[0])
        return [Answer(*reply[at : at + 3]) for at in range(1, len(reply), 3)]

    async def _in_time(self, work: Awaitable[T]) -> T:
        call = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait((call,), timeout=self._timeout_s)
            if not done:
                # Where it was this process that had no time, the answer is there already and has only to be read.
                await asyncio.wait((call,), timeout=_GRACE_S)
            if not call.done():
                raise Unavailable("Valkey did not answer in time.")
            return call.result()
        except (ValkeyError, OSError) as error:
            raise Unavailable("Valkey cannot be asked.") from error
        finally:
            call.cancel()

    async def _run(self, keys: list[str], arguments: list[str | int]) -> list[int]:
        try:
            return list(await self._client.evalsha(self._sha, len(keys), *keys, *arguments))
        except NoScriptError:
            self._sha = await self._client.script_load(_SCRIPT)
            return list(await self._client.evalsha(self._sha, len(keys), *keys, *arguments))


def _line(ask: Ask, seed: int) -> str:
    """The numbers of one counter, in the order in which the script reads them."""
    rule = ask.rule
    limit = rule.limit or 0
    rate = rule.kind in (Kind.REQUESTS, Kind.TOKENS)
    scale, drain = (SCALE, limit) if rate else (1, 0)
    folds = 0 if rule.kind is Kind.SLOTS else 1
    return f"{limit} {scale} {drain} {ask.leased} {ask.idle} {ask.used} {ask.own} {ask.least} {ask.most} {ask.useful} {seed} {folds}"
