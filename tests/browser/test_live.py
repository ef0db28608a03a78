"""The dashboard while a crash is going on: what comes appears, and it outlives the service."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser

from tests.browser.watched import Watched
from tests.embedded.command import run_command
from tests.embedded.served import Served, serve

# At this speed the first triggers come within seconds.
DEMO: Final = ("demo", "--seed", 2, "--speed", 30, "--log", "sqlite:log.db")
TRIGGERS: Final = (
    "[...document.querySelectorAll('#triggers button.story')].map((b) => b.textContent)"
)
NEW_TRIGGER: Final = f"{TRIGGERS}.some((id) => !known.includes(id))"
SEQUENCE: Final = "Number(document.getElementById('sequence').textContent.replaceAll(',', ''))"
# How many pixels of a chart have the colour of its line.
PIXELS: Final = """
(id) => {
  const canvas = document.querySelector(`#${id} canvas`);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const name = `--${id.split("-")[0]}`;
  const colour = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const wanted = [1, 3, 5].map((from) => parseInt(colour.slice(from, from + 2), 16));
  let found = 0;
  for (let at = 0; at < data.length; at += 4) {
    found += wanted.every((part, index) => data[at + index] === part) && data[at + 3] === 255;
  }
  return found;
}
"""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path, *DEMO, "--port", 0) as served:
        yield served


def test_what_comes_appears_without_a_reload(browser: Browser, demo: Served) -> None:
    watched = Watched(browser, demo.url, viewport={"width": 1600, "height": 1000})
    watched.wait_live()
    known = watched.page.evaluate(TRIGGERS)
    watched.wait_until(NEW_TRIGGER, known)
    evidence = watched.page.locator("#triggers li").first.locator(".evidence dd").all_inner_texts()
    assert len(evidence) == 8
    assert all(evidence)
    watched.wait_until(
        "document.getElementById('announcements').textContent.includes('ADL trigger')"
    )
    # Both lines are drawn, each in its own colour, and told in words.
    for chart in ("available-chart", "reserved-chart"):
        assert watched.page.evaluate(PIXELS, chart) > 200
        told = watched.page.locator(f"#{chart}").get_attribute("aria-label")
        assert told is not None
        assert "USDT" in told
    watched.wait_until("document.querySelectorAll('#open-rows tr').length > 0")
    watched.wait_until("document.querySelectorAll('#closed-rows tr').length > 0")
    watched.close()
    said = demo.stop()
    assert "How liquidations ended (USDT)" in said
    assert "verify --log sqlite:" in said


def test_page_goes_on_after_the_service_was_killed_and_started_again(
    browser: Browser, demo: Served, tmp_path: Path
) -> None:
    # Of a service that is away, and of one that is still reading its ledger.
    gone = "Failed to load resource: net::ERR_"
    starting = "Failed to load resource: the server responded with a status of 503"
    watched = Watched(browser, demo.url, gone, starting)
    watched.wait_live()
    watched.wait_until(f"{SEQUENCE} > 50")
    demo.kill()
    watched.wait_until("document.getElementById('connection').textContent.startsWith('Reconn')")
    watched.wait_until("!document.getElementById('banner').hidden")
    assert watched.text("lag") == "unknown"
    port = demo.url.rstrip("/").rpartition(":")[2]
    environment = {
        "INSURANCE_FUND_LOG": "sqlite:log.db",
        "INSURANCE_FUND_DATABASE": "sqlite:log-views.db",
    }
    with serve(tmp_path, "serve", "--port", port, **environment) as again:
        watched.wait_live()
        watched.wait_until("document.getElementById('banner').hidden")
        # What the fund is told now appears on the page that saw the service die.
        _deposit(tmp_path, "USDT", "1000000000")
        watched.wait_until("document.getElementById('figure-available').textContent.length > 15")
        # It went on behind the last entry that it had seen alive.
        first, *_, last = watched.resumed_at
        assert first is not None
        assert last is not None
        assert int(last) > max(50, int(first))
        watched.close()
        again.stop()


def test_each_fund_is_shown_live_whichever_ledger_it_is_of(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "insurance-fund.toml").write_text('[shards]\ndollars = ["USDT"]\ncoins = ["BTC"]\n')
    _deposit(tmp_path, "USDT", "5000")
    _deposit(tmp_path, "BTC", "0.004")
    with serve(tmp_path, "serve", "--port", 0, INSURANCE_FUND_LOG="sqlite:log.db") as served:
        watched = Watched(browser, served.url)
        watched.wait_live()
        assert watched.page.locator("#currencies label").all_inner_texts() == ["BTC", "USDT"]
        assert (watched.text("figure-available"), watched.text("ledger")) == ("0.004", "coins")
        watched.page.locator("#currencies input:checked").focus()
        watched.page.keyboard.press("ArrowRight")
        watched.wait_until("document.getElementById('figure-available').textContent === '5,000.00'")
        watched.wait_until("document.getElementById('connection').textContent === 'Live'")
        assert watched.text("ledger") == "dollars"
        _deposit(tmp_path, "USDT", "70000.5")
        watched.wait_until(
            "document.getElementById('figure-available').textContent === '75,000.50'"
        )
        watched.close()
        served.stop()


def _deposit(folder: Path, currency: str, amount: str) -> None:
    name = f"{currency}-{amount}"
    message = {
        "type": "fund_deposit",
        "event_id": name,
        "event_time_ms": time.time_ns() // 1_000_000,
        "margin_currency": currency,
        "transfer_id": name,
        "amount": amount,
        "memo": "more",
    }
    line = json.dumps(message).encode() + b"\n"
    run_command(folder, "publish", "fund-transfers", stdin=line)
    run_command(folder, "run", "--until-idle")
