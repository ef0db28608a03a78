"""A webhook's target over HTTP: asked until it says that it has taken a message.

Only an answer 2xx says so. Everything else is tried again without end, since nothing may be lost:
what the target refuses for good is told loudly, for a person to mend.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import stamina

from insurance_fund.events.errors import SettingsError
from insurance_fund.projections.webhook import Webhook
from insurance_fund.projections.webhook_messages import Message
from insurance_fund.streams.kafka_access import read_secret
from insurance_fund.version import VERSION

# The whole of a request; a rebalance of the workers waits for it, at the longest 60 s.
REQUEST_S: Final = 10.0
WAIT_S: Final = 0.2
WAIT_S_MAX: Final = 30.0
JITTER_S: Final = 0.5
# Answers by which a target asks for patience.
_PATIENCE: Final = (408, 425, 429)

_log = logging.getLogger(__name__)


class _NotTakenError(Exception):
    """The target has not said that it took a message; `loud` where time will not mend it."""

    def __init__(self, told: str, *, loud: bool = False) -> None:
        super().__init__(told)
        self.loud = loud


class Target:
    """Posts messages to a webhook, one at a time.

    Raises SettingsError for a URL that cannot be asked.
    """

    def __init__(self, webhook: Webhook) -> None:
        try:
            httpx.URL(webhook.url)
        except httpx.InvalidURL as error:
            raise SettingsError(f"webhooks.{webhook.name}.url cannot be used: {error}") from error
        self._webhook = webhook
        self._host = urlsplit(webhook.url).hostname
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            headers={"User-Agent": f"insurance-fund/{VERSION}"},
            timeout=REQUEST_S,
        )
        self._resting = False

    async def deliver(self, message: Message, halted: asyncio.Event) -> bool:
        """Post until the message is taken; return False where that was `halted` before.

        A request that is on its way is waited for in any case: whether it was taken decides whether
        it is sent again.
        """
        delivery = asyncio.create_task(self._deliver(message, halted))
        halting = asyncio.create_task(halted.wait())
        try:
            await asyncio.wait([delivery, halting], return_when=asyncio.FIRST_COMPLETED)
            if self._resting:
                delivery.cancel()
            await asyncio.wait([delivery])
            return not delivery.cancelled() and delivery.result()
        finally:
            halting.cancel()
            delivery.cancel()

    async def _deliver(self, message: Message, halted: asyncio.Event) -> bool:
        async for attempt in stamina.retry_context(
            on=_NotTakenError,
            attempts=None,
            timeout=None,
            wait_initial=WAIT_S,
            wait_max=WAIT_S_MAX,
            wait_jitter=JITTER_S,
        ):
            with attempt:
                self._resting = False
                if halted.is_set():
                    return False
                try:
                    await self._post(message)
                except _NotTakenError as error:
                    if halted.is_set():
                        return False
                    self._tell(message, error, attempt)
                    self._resting = True
                    raise
                return True
        raise AssertionError("retries without end have ended")

    async def _post(self, message: Message) -> None:
        """Send a message once; raises _NotTakenError."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": message.key}
        try:
            if self._webhook.token_file is not None:
                # Each time anew, so that it can be renewed.
                headers["Authorization"] = f"Bearer {self._token(self._webhook.token_file)}"
            async with (
                asyncio.timeout(REQUEST_S),
                # The answer's body says nothing that is asked for: it is not read.
                self._client.stream(
                    "POST", self._webhook.url, content=message.body, headers=headers
                ) as answer,
            ):
                pass
        except TimeoutError as error:
            raise _NotTakenError(f"no answer within {REQUEST_S:.0f} s") from error
        except httpx.HTTPError as error:
            raise _NotTakenError(str(error) or type(error).__name__) from error
        except SettingsError as error:
            raise _NotTakenError(str(error), loud=True) from error
        if not answer.is_success:
            # Neither a redirect nor what the target calls our mistake mends itself.
            status = answer.status_code
            loud = not answer.is_server_error and status not in _PATIENCE
            raise _NotTakenError(f"it answers {status}", loud=loud)

    def _token(self, file: Path) -> str:
        setting = f"webhooks.{self._webhook.name}.token_file"
        token = read_secret(file, setting)
        if not token.isascii() or not token.isprintable():
            raise SettingsError(f"{setting}: {file} must have letters, digits and signs of ASCII")
        return token

    def _tell(self, message: Message, error: _NotTakenError, attempt: stamina.Attempt) -> None:
        level = logging.ERROR if error.loud else logging.WARNING
        _log.log(
            level,
            "webhook %s: %s does not take %s (time %d): %s; again in %.1f s or a little more",
            self._webhook.name,
            self._host,
            message.key,
            attempt.num,
            error,
            attempt.next_wait,
        )
