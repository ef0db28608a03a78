"""A webhook's target over real HTTP: when it is asked again, and when that ends."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from insurance_fund.events.errors import SettingsError
from insurance_fund.projections.webhook import Webhook
from insurance_fund.projections.webhook_messages import Message
from insurance_fund.projections.webhook_target import Target
from tests.projections.desk import OK, Answer, Request, open_desk
from tests.projections.faust_site import until

MESSAGE = Message("liq-7:adl:1", b'{"type":"adl_trigger"}')


async def test_who_waits_to_ask_again_lets_go_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async with open_desk() as desk:
        url = desk.url
    halted = asyncio.Event()
    delivery = asyncio.create_task(Target(Webhook("desk", url)).deliver(MESSAGE, halted))
    # The next time would be 3.2 s later at the least.
    await until(lambda: "(time 5): All connection attempts failed; again in 3.2 s" in caplog.text)
    halted.set()
    done, _ = await asyncio.wait([delivery], timeout=1)
    assert done
    assert not delivery.result()


@pytest.mark.parametrize("status", [OK, 500])
async def test_request_on_its_way_is_waited_for(status: int) -> None:
    def answer(request: Request) -> Answer:
        return status, 0.5

    halted = asyncio.Event()
    async with open_desk(answer) as desk:
        target = Target(Webhook("desk", desk.url))
        delivery = asyncio.create_task(target.deliver(MESSAGE, halted))
        await until(lambda: desk.requests)
        halted.set()
        assert await delivery is (status == OK)
        assert len(desk.requests) == 1


async def test_token_is_read_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    token = tmp_path / "token"
    async with open_desk() as desk:
        target = Target(Webhook("desk", desk.url, token))
        delivery = asyncio.create_task(target.deliver(MESSAGE, asyncio.Event()))
        await until(lambda: "webhooks.desk.token_file" in caplog.text)
        assert caplog.records[0].levelno == logging.ERROR
        token.write_text("first\n")
        assert await delivery
        token.write_text("second\n")
        assert await target.deliver(MESSAGE, asyncio.Event())
    shown = [one.headers["authorization"] for one in desk.requests]
    assert shown == ["Bearer first", "Bearer second"]


async def test_token_that_no_header_can_hold_is_told_and_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    token.write_text("schlüssel\n", encoding="utf-8")
    async with open_desk() as desk:
        target = Target(Webhook("desk", desk.url, token))
        delivery = asyncio.create_task(target.deliver(MESSAGE, asyncio.Event()))
        await until(lambda: "signs of ASCII" in caplog.text or delivery.done())
        token.write_text("a-token\n")
        assert await delivery
    assert desk.requests[0].headers["authorization"] == "Bearer a-token"


async def test_url_that_cannot_be_asked_is_refused_at_the_start() -> None:
    with pytest.raises(SettingsError, match=r"webhooks\.desk\.url cannot be used"):
        Target(Webhook("desk", "https://1.2.3.400/"))
