"""The paper exchange by the wall clock, beside a fund that runs by it too.

Crashes are played one after the other on a log that others use as well. What the fund has sent is
read from the end on, as of the start. Orders and triggers are taken whichever liquidation they are
of: what an earlier run has taken over, and the fund brings up again, is closed here. An order that
stood in an earlier run is not known here, and the fund takes it for dead when it is due.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from insurance_fund.events import messages as msg
from insurance_fund.events import topics
from insurance_fund.fund.policy import Policy
from insurance_fund.streams.clocks import Clock
from insurance_fund.streams.paper.crash import crash
from insurance_fund.streams.paper.exchange import PaperExchange
from insurance_fund.streams.paper.link import Bus, Link
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.paper.messages import Said, ordinary_fill_of
from insurance_fund.streams.paper.tally import Tally
from insurance_fund.streams.paper.tape import Trade

# What happens within it is published together.
TICK_S: Final = 0.02
# How late a wish to stop may be seen.
WAIT_S_MAX: Final = 0.2
LIQUIDATIONS_A_COURSE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What is played: one course with so many `liquidations`, or (None) courses without an end.

    The courses are those of `seed`, `seed` + 1 and so on, played `speed` times as fast as drawn,
    the first `calm_ms` of each faster still (see `Market.played`). Of those without an end each
    has `a_course` liquidations. Orders and ADL take the time that they take. `seconds` is how long
    at most, None without end.
    """

    seed: int
    speed: float = 1.0
    liquidations: int | None = None
    seconds: float | None = None
    a_course: int = LIQUIDATIONS_A_COURSE
    calm_ms: int = 0


class LiveExchange:
    """Plays a plan on a log until it is over, or until it is stopped.

    `told` is called as soon as it runs, and again and again. A deleveraging costs the
    `adl_fee_rate` of `policy`.
    """

    def __init__(
        self,
        log: Bus,
        clock: Clock,
        plan: Plan,
        policy: Policy,
        told: Callable[[LiveExchange], None] = lambda exchange: None,
    ) -> None:
        self._log = log
        self._clock = clock
        self._plan = plan
        self._policy = policy
        self._told = told
        self._last_ms = 0
        self._stopped = False
        self._ordinary: deque[Trade] = deque()
        self._printed = 0
        self.courses = 0
        self.tally = Tally()
        # Of two runs on one log each begins at a time of its own.
        self.run_id = f"{self._now_ms():x}"

    def stop(self) -> None:
        """Let the run end soon; what has happened until then is published."""
        self._stopped = True

    async def run(self) -> None:
        """Play; raises LogUnavailableError and CorruptionError of the log."""
        link = await Link.of(self._log)
        await link.seek_ends()
        market = await self._draw()
        exchange = PaperExchange(market, self._policy, f"{self.run_id}-")
        started_ms = self._clock.monotonic_ms()
        currencies = {i.instrument_id: i.margin_currency for i in market.instruments}
        self._told(self)
        while not self._is_over(exchange, started_ms):
            if self._course_is_over(exchange):
                exchange.go_on(await self._draw(), self._now_ms())
            await self._listen(link, exchange)
            now_ms = self._now_ms()
            said = exchange.advance(now_ms)
            while self._ordinary and self._ordinary[0].time_ms <= now_ms:
                said.append(self._print(self._ordinary.popleft(), currencies))
            await link.publish(said)
            self.tally.add(said)
            self._told(self)
            await self._pause(exchange, now_ms)

    def _now_ms(self) -> int:
        self._last_ms = max(self._last_ms, self._clock.wall_ms())
        return self._last_ms

    def _is_over(self, exchange: PaperExchange, started_ms: int) -> bool:
        plan, passed_ms = self._plan, self._clock.monotonic_ms() - started_ms
        if self._stopped or (plan.seconds is not None and passed_ms >= plan.seconds * 1000):
            return True
        return plan.liquidations == self.tally.ended and exchange.next_ms() is None

    def _course_is_over(self, exchange: PaperExchange) -> bool:
        # The next one begins where this one began, and no order shall see the price jump.
        if self._plan.liquidations is not None or self._ordinary:
            return False
        return not exchange.takeovers_left and not exchange.has_open_orders()

    async def _draw(self) -> Market:
        """Draw the next course; it begins as soon as it is drawn."""
        plan, run = self._plan, f"{self.run_id}-{self.courses + 1}-"
        liquidations = plan.liquidations or plan.a_course
        drawn = await asyncio.to_thread(crash, plan.seed + self.courses, liquidations, run)
        self.courses += 1
        market = drawn.played(self._now_ms(), plan.speed, plan.calm_ms)
        self._ordinary = deque(market.trades)
        return market

    async def _listen(self, link: Link, exchange: PaperExchange) -> None:
        tally, sent = self.tally, await link.listen()
        now_ms = self._now_ms()
        for order in sent.orders:
            if exchange.trades(order.instrument_id):
                tally.orders += 1
                exchange.take_order(order, now_ms)
            else:
                tally.foreign += 1
        for trigger in sent.triggers:
            if exchange.trades(trigger.instrument_id):
                tally.triggers += 1
                exchange.take_trigger(trigger, now_ms)
            else:
                tally.foreign += 1
        for letter in sent.letters:
            self._take_letter(letter)

    def _take_letter(self, letter: msg.DeadLetter) -> None:
        if self.run_id.encode() not in base64.b64decode(letter.value_base64 or ""):
            return
        self.tally.refused += 1
        if self.tally.first_refusal is None:
            self.tally.first_refusal = (
                f"{letter.topic}:{letter.partition}:{letter.offset} "
                f"({letter.reason}: {letter.detail})"
            )

    def _print(self, trade: Trade, currencies: dict[str, str]) -> Said:
        self._printed += 1
        name = f"trade-{self.run_id}-{self._printed:06d}"
        return topics.FILLS, ordinary_fill_of(name, trade, currencies[trade.instrument_id])

    async def _pause(self, exchange: PaperExchange, now_ms: int) -> None:
        await asyncio.sleep(TICK_S)
        next_ms = exchange.next_ms()
        times_ms = [] if next_ms is None else [next_ms]
        if self._ordinary:
            times_ms.append(self._ordinary[0].time_ms)
        left_s = (min(times_ms) - now_ms) / 1000 if times_ms else WAIT_S_MAX
        await self._log.wait(min(WAIT_S_MAX, max(0.0, left_s - TICK_S)))
