"""The dashboard over a crash that is over: what it shows, and how it is used."""

from __future__ import annotations

import json
import random
import re
import urllib.request
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser

from insurance_fund.events.amounts import amount_text
from tests.browser.conftest import SERVED
from tests.browser.watched import Watched
from tests.embedded.command import command_json, run_command
from tests.embedded.served import Served, serve

TOKEN: Final = "0123456789abcdef0123456789abcdef"  # noqa: S105 - of a server of this test
PAGE: Final = Path(__file__).parents[2] / "projections" / "dashboard"
TABS_MAX: Final = 60
WIDE: Final = Context(prec=100)
WHOLE: Final = "123456789012345678901234.125"


def read(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own server
        return json.load(answer)


def test_figures_are_those_of_the_ledger_digit_by_digit(
    browser: Browser, still: Served, crash: Path
) -> None:
    watched = Watched(browser, still.url)
    watched.wait_live()
    (fund,) = [one for one in command_json(crash, "status")["funds"] if one["in_use"]]
    names = {"available": "available", "reserved": "reserved", "gains": "gains", "draws": "draws"}
    for shown, name in {**names, "compensation_used": "used"}.items():
        element = watched.page.locator(f"#figure-{shown}")
        assert element.get_attribute("title") == f"{fund[name]} USDT"
        assert element.inner_text() == f"{Decimal(fund[name]):,.2f}"
    counts = watched.page.locator("#outcome-rows tr td:nth-child(2)").all_inner_texts()
    ended = ("better_than_bankruptcy", "compensated", "deleveraged")
    assert counts == [str(fund["closed"][outcome]) for outcome in ended]
    watched.close()


def test_amounts_are_rounded_and_summed_as_decimals_are(browser: Browser, still: Served) -> None:
    chance = random.Random(7)  # noqa: S311 - cases, no secrets
    texts = ["0", "0.5", "-0.004", "-0.005", "999.995", WHOLE]
    for _ in range(500):
        amount = Decimal(chance.randint(-(10**24), 10**24)).scaleb(-chance.randint(0, 18))
        texts.append(amount_text(amount))
    watched = Watched(browser, still.url)
    told = watched.page.evaluate(
        """async (texts) => {
          const d = await import("/static/decimals.js");
          return texts.map((text, at) => [
            d.rounded(text, 2), d.grouped(text), d.sum(text, "0", texts[at - 1] ?? "0"),
            d.difference(text, texts[at - 1] ?? "0"), d.signOf(text), d.permille(text, texts[5]),
          ]);
        }""",
        texts,
    )
    for before, text, found in zip(["0", *texts], texts, told, strict=False):
        assert found == computed(text, before), text
    watched.close()


def computed(text: str, before: str) -> list[Any]:
    """Return what the page must make of an amount and the one before it."""
    amount, earlier = Decimal(text), Decimal(before)
    cents = amount.quantize(Decimal("0.01"), ROUND_HALF_UP, WIDE)
    decimals = max(-int(one.as_tuple().exponent) for one in (amount, earlier))
    return [
        f"{cents or Decimal('0.00'):,f}",
        f"{amount:,f}",
        f"{WIDE.add(amount, earlier):.{decimals}f}",
        f"{WIDE.subtract(amount, earlier):.{decimals}f}",
        (amount > 0) - (amount < 0),
        int(1000 * Fraction(text) / Fraction(WHOLE)),
    ]


def test_events_are_taken_whole_wherever_the_stream_is_cut(browser: Browser, still: Served) -> None:
    watched = Watched(browser, still.url)
    stream = (
        "retry: 5\nid: 3\n\n: beat\n\n"
        'id: 4\nevent: entry\ndata: {"a":1}\ndata: 2\r\n\r\n\n'
        "data:x\n\n: beat\nid: 6\n\n"
    )
    for cut in range(len(stream) + 1):
        told = watched.page.evaluate(
            """async (parts) => {
              const { parser } = await import("/static/sse.js");
              const told = [];
              parts.forEach(parser((event) => told.push(event), (id) => told.push(id)));
              return told;
            }""",
            [stream[:cut], stream[cut:]],
        )
        first = {"type": "entry", "data": '{"a":1}\n2'}
        assert told == ["3", "4", first, {"type": "message", "data": "x"}, "6"]
    watched.close()


def test_story_is_opened_and_closed_by_the_keyboard(browser: Browser, still: Served) -> None:
    watched = Watched(browser, still.url, viewport={"width": 1600, "height": 1000})
    watched.wait_live()
    keyboard = watched.page.keyboard
    for _ in range(TABS_MAX):
        keyboard.press("Tab")
        if watched.page.evaluate("document.activeElement.matches('button.story')"):
            break
    focused = "document.activeElement.dataset.liquidation"
    liquidation = watched.page.evaluate(focused)
    keyboard.press("Enter")
    watched.wait_until("document.getElementById('story-lines').children.length > 0")
    assert watched.text("story-heading") == f"Liquidation {liquidation}"
    told = read(f"{still.url}v1/liquidations/{liquidation}")["story"]["lines"]
    shown = watched.page.locator("#story-lines li > p:last-child").all_inner_texts()
    assert shown == [line["text"] for line in told]
    for _ in range(5):
        keyboard.press("Tab")
        # Nothing behind the dialog can be reached; the browser's own bar has the focus of nothing.
        inside = "document.activeElement.closest('dialog') ?? document.activeElement"
        assert watched.page.evaluate(f"({inside}).tagName") in {"DIALOG", "BODY"}
    keyboard.press("Escape")
    watched.wait_until("!document.getElementById('story').open")
    assert watched.page.evaluate(focused) == liquidation
    assert watched.page.evaluate("location.hash") == ""
    watched.close()


def test_address_of_a_story_opens_it(browser: Browser, still: Served) -> None:
    liquidation = read(f"{still.url}v1/liquidations?limit=1")["liquidations"][0]["liquidation_id"]
    watched = Watched(browser, f"{still.url}#liquidation/{liquidation}")
    watched.wait_until("document.getElementById('story-lines').children.length > 0")
    watched.close()
    unknown = Watched(browser, f"{still.url}#liquidation/nobody", "Failed to load resource")
    unknown.wait_until(
        "document.getElementById('story-note').textContent === 'No liquidation nobody is known.'"
    )
    unknown.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1600])
def test_page_never_scrolls_sideways(
    browser: Browser, still: Served, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 900}
    watched = Watched(browser, still.url, viewport=size, color_scheme=scheme)
    watched.wait_live()
    watched.wait_until("document.querySelectorAll('#closed-rows tr').length > 0")
    assert watched.page.evaluate("document.documentElement.scrollWidth") == width
    # Nor does anything stand out of its panel, tables in their scrolling boxes apart.
    outside = watched.page.evaluate(
        """(width) => [...document.querySelectorAll("main *, header *")]
          .filter((one) => one.checkVisibility() && !one.closest(".unseen, .scroll, .chart"))
          .filter((one) => one.getBoundingClientRect().right > width)
          .map((one) => one.outerHTML.slice(0, 120))""",
        width,
    )
    assert outside == []
    watched.page.locator("#closed-rows button.story").first.click()
    watched.wait_until("document.getElementById('story-lines').children.length > 0")
    assert watched.page.evaluate("document.documentElement.scrollWidth") == width
    watched.close()


def test_token_is_asked_for_and_kept(browser: Browser, crash: Path) -> None:
    environment = {**SERVED, "INSURANCE_FUND_HTTP_TOKEN": TOKEN}
    with serve(crash, "serve", "--port", 0, **environment) as served:
        watched = Watched(browser, served.url, "Failed to load resource: the server responded with")
        watched.page.locator("#token-input").fill("a wrong token of whoever")
        watched.page.keyboard.press("Enter")
        watched.wait_until("document.getElementById('token-wrong').textContent")
        watched.page.locator("#token-input").fill(TOKEN)
        watched.page.keyboard.press("Enter")
        watched.wait_live()
        assert not watched.page.locator("#token").is_visible()
        assert all(TOKEN not in url for url in watched.requested)
        watched.close()
        served.stop()


def test_fund_that_is_not_there_yet_is_told(browser: Browser, tmp_path: Path) -> None:
    run_command(tmp_path, "run", "--until-idle")
    with serve(tmp_path, "serve", "--port", 0, **SERVED) as served:
        watched = Watched(browser, served.url)
        watched.wait_until("document.getElementById('connection').textContent === 'Live'")
        watched.wait_until("document.getElementById('no-fund').checkVisibility()")
        watched.close()
        served.stop()


def test_page_makes_no_markup_of_what_it_reads_and_loads_nothing_from_elsewhere() -> None:
    for path in (*PAGE.glob("*.js"), *PAGE.glob("*.html"), *PAGE.glob("*.css")):
        text = path.read_text()
        markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
        assert not re.search(markup, text), path
        assert not re.search(r"\son\w+=[\"']|\sstyle=[\"']|javascript:", text), path
        assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//|@import|url\(", text), path
        # The one place where a text becomes a float is for pixels.
        assert "parseFloat" not in text, path
        assert text.count("Number(text)") == (path.name == "decimals.js"), path
