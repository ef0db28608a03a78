"""The browser, and a ledger that stands still."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.embedded.command import run_command
from tests.embedded.served import Served, serve

SERVED: Final = {
    "INSURANCE_FUND_LOG": "sqlite:log.db",
    "INSURANCE_FUND_DATABASE": "sqlite:views.db",
}


# Its loop runs in the main thread: it must have ended before another package wants a loop there.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's chromium, without a window."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        # Its sandbox does not start for root, which tests in a container are.
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def crash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the log of a crash that is over, `log.db`."""
    folder = tmp_path_factory.mktemp("crash")
    run_command(folder, "demo", "--headless", "--liquidations", 60, "--log", "sqlite:log.db")
    return folder


@pytest.fixture(scope="package")
def still(crash: Path) -> Iterator[Served]:
    """The dashboard over the crash that is over."""
    with serve(crash, "serve", "--port", 0, **SERVED) as served:
        yield served
        served.stop()
