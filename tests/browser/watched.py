"""A page of the dashboard, and all that must not happen on it."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request

WAIT_MS: Final = 20_000
# A report of the content security policy must be seen wherever it goes.
_REPORTS: Final = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`CSP ${event.effectiveDirective} ${event.blockedURI}`);
});
"""
_WAIT: Final = """
([known, waitMs]) => new Promise((resolve) => {
  const looking = setInterval(() => {
    if (CONDITION) {
      end(true);
    }
  }, 20);
  const waiting = setTimeout(() => end(false), waitMs);
  function end(result) {
    clearInterval(looking);
    clearTimeout(waiting);
    resolve(result);
  }
})
"""


class Watched:
    """An open page; `forgiven` are the beginnings of what a console may say of a dead service."""

    def __init__(self, browser: Browser, url: str, *forgiven: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(WAIT_MS)
        self.context.add_init_script(_REPORTS)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.requested: list[str] = []
        # What the page has told the stream, each time it came, to have seen last.
        self.resumed_at: list[str | None] = []
        self._origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        self._forgiven = forgiven
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", self._note)
        self.page.goto(url)
        # A page that was loaded again has lost this.
        self.page.evaluate("window.loadedOnce = true")

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(self._forgiven):
            self.complaints.append(f"{message.type}: {message.text}")

    def _note(self, request: Request) -> None:
        self.requested.append(request.url)
        if "/v1/stream" in request.url:
            self.resumed_at.append(request.headers.get("last-event-id"))

    def wait_until(self, condition: str, known: Any = None) -> None:
        """Return when a condition in JavaScript, about the page and `known`, holds."""
        # Playwright's own would be evaluated by the page, which forbids that.
        source = _WAIT.replace("CONDITION", condition)
        assert self.page.evaluate(source, [known, WAIT_MS]), f"never came true: {condition}"

    def wait_live(self) -> None:
        """Return when the page follows the stream and shows the fund."""
        self.wait_until("document.getElementById('connection').textContent === 'Live'")
        self.wait_until("document.getElementById('figure-available')?.textContent")

    def text(self, element_id: str) -> str:
        """Return what an element shows."""
        return self.page.locator(f"#{element_id}").inner_text()

    def close(self) -> None:
        """Close the page, on which nothing of what must not happen has happened."""
        assert self.page.evaluate("window.loadedOnce") is True, "the page was loaded again"
        self.context.close()
        assert not self.complaints, self.complaints
        assert self.requested
        foreign = [url for url in self.requested if not url.startswith(f"{self._origin}/")]
        assert foreign == []
