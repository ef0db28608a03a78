"""What goes wrong with Kafka, told with its cause and what to do.

An exception of the client is turned into one of ours, with the cause that its log tells
(`kafka_causes.py`), and everything that is asked of brokers has a deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from aiokafka import errors as kafka

from insurance_fund.events.errors import (
    CommitUnknownError,
    FencedError,
    InsuranceFundError,
    LogUnavailableError,
)
from insurance_fund.streams.kafka_access import DEADLINE_S
from insurance_fund.streams.kafka_causes import NO_BROKERS, cause_since, was_heard

_T = TypeVar("_T")
RETRY_S: Final = 0.1
# A process that stood still and goes on has at least so much of its deadline left.
STEP_S: Final = 1.0
LEAVE_S: Final = 1.0
_NO_CONNECTION: Final = "no connection"
_REFUSED: Final = {
    kafka.TopicAuthorizationFailedError: "this user may not {verb} topic {what}: grant {right} on "
    "it",
    kafka.GroupAuthorizationFailedError: "this user may not join group {what}: grant Read on it",
    kafka.TransactionalIdAuthorizationFailed: "this user may not write as transactional id {what}: "
    "grant Write on it",
    kafka.ClusterAuthorizationFailedError: "this user lacks a right on the cluster",
}
# Beside its own errors the client raises these, where a broker or a person has done what it did not
# think of: a refused token, a topic that shrank.
_CLIENT_ERRORS: Final = (
    kafka.KafkaError,
    kafka.IllegalOperation,
    kafka.ConsumerStoppedError,
    AssertionError,
    NotImplementedError,
    OSError,
)
_TOO_LARGE: Final = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)
# What the batches of a transaction fail with after one of them has failed.
_FOLLOWING: Final = (kafka.InvalidTxnState, kafka.OutOfOrderSequenceNumber)
_ACLS: Final = "`insurance-fund topics plan` prints the ACLs for each role"


@asynccontextmanager
async def answered(
    brokers: object,
    doing: str,
    *,
    commit: bool = False,
    deadline_s: float = DEADLINE_S,
) -> AsyncIterator[None]:
    """Give what is done inside a deadline, and turn what the client raises into our errors.

    Raises FencedError for a writer that is no longer the one, LogUnavailableError for what the
    brokers refuse or do not answer; of a `commit` that is CommitUnknownError.
    """
    started_s = time.monotonic()
    unknown = CommitUnknownError if commit else LogUnavailableError
    try:
        async with _awake_for(deadline_s):
            yield
        sign, meaning = NO_BROKERS
        if not commit and was_heard(sign, started_s):
            raise LogUnavailableError(_told(brokers, doing, _NO_CONNECTION, meaning))
    except InsuranceFundError:
        raise
    except TimeoutError as error:
        raise unknown(
            _told(brokers, doing, f"no answer for {deadline_s:g} s", cause_since(started_s))
        ) from error
    except _CLIENT_ERRORS as error:
        raise _translated(error, brokers, doing, started_s, unknown) from error


@asynccontextmanager
async def _awake_for(deadline_s: float) -> AsyncIterator[None]:
    """Raise TimeoutError after a time in which this process has not stood still.

    One that was stopped and goes on hears what was answered meanwhile: that it is fenced.
    """
    loop = asyncio.get_running_loop()
    steps, rest_s = divmod(deadline_s, STEP_S)
    timer: asyncio.TimerHandle

    def step(left: int) -> None:
        nonlocal timer
        if left:
            timer = loop.call_later(STEP_S, step, left - 1)
        else:
            limit.reschedule(loop.time())

    timer = loop.call_later(rest_s, step, int(steps))
    try:
        async with asyncio.timeout(None) as limit:
            yield
    finally:
        timer.cancel()


async def connect(
    brokers: object,
    starting: Awaitable[None],
    stop: Callable[[], Coroutine[Any, Any, None]],
    doing: str = "connecting",
) -> None:
    """Start a client; one that does not come up is let go of. Raises as `answered` does."""
    try:
        async with answered(brokers, doing):
            await starting
    except BaseException:
        await let_go(stop())
        raise


async def let_go(stopping: Coroutine[Any, Any, None], timeout_s: float = LEAVE_S) -> None:
    """Let a client stop; brokers that do not answer any more are left without a word.

    It stops in a task of its own: a client that has only just started cancels what waits for it.
    """
    task = asyncio.create_task(stopping)
    await asyncio.wait([task], timeout=timeout_s)
    if not task.done():
        task.cancel()
    elif not task.cancelled():
        error = task.exception()
        if error is not None and not isinstance(error, kafka.KafkaError | OSError | TimeoutError):
            raise error


def naming(topic: str, error: BaseException) -> BaseException:
    """Return an error of a batch so that it names the topic, where the client's does not."""
    return type(error)(topic) if isinstance(error, _TOO_LARGE) else error


def most_telling(failed: Sequence[BaseException]) -> BaseException:
    """Return which of the errors of one transaction is the reason of the others.

    Where one topic refuses, the batches of the others fail with it, for no reason of their own.
    """
    fenced = kafka.ProducerFenced | kafka.InvalidProducerEpoch
    reasons: list[BaseException] = [one for one in failed if isinstance(one, fenced)]
    reasons += [one for one in failed if isinstance(one, (*_REFUSED, *_TOO_LARGE))]
    reasons += [one for one in failed if not isinstance(one, _FOLLOWING)]
    return (reasons or list(failed))[0]


async def patiently(call: Callable[[], Awaitable[_T]]) -> _T:
    """Call until there is an answer that stays; the deadline is the caller's.

    A broker that has just died is asked again until another takes its place.
    """
    while True:
        try:
            return await call()
        except TimeoutError:
            pass
        except kafka.KafkaTimeoutError:
            pass
        except kafka.KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(RETRY_S)


def _translated(
    error: Exception,
    brokers: object,
    doing: str,
    started_s: float,
    unknown: type[InsuranceFundError],
) -> InsuranceFundError:
    if isinstance(error, kafka.ProducerFenced | kafka.InvalidProducerEpoch):
        return FencedError(
            f"{brokers}: a newer writer has the shard, or this one stood still for longer than a "
            "transaction may last"
        )
    refusal = next((text for kind, text in _REFUSED.items() if isinstance(error, kind)), None)
    if refusal is not None:
        writes = unknown is CommitUnknownError or doing.startswith("publishing")
        told = refusal.format(
            verb="write" if writes else "read",
            right="Write" if writes else "Read",
            what=_named(error.args) or "(the broker's log says which)",
        )
        return LogUnavailableError(f"{brokers}: {told} (while {doing}); {_ACLS}")
    if isinstance(error, _TOO_LARGE):
        return LogUnavailableError(
            f"{brokers}: a record is too large for topic {_named(error.args)} (while {doing}); "
            "nothing of it is visible: raise its max.message.bytes (`insurance-fund topics check` "
            "says how), then start again"
        )
    if isinstance(error, kafka.UnsupportedCodecError):
        return LogUnavailableError(f"{brokers}: {error} while {doing}")
    if isinstance(error, kafka.KafkaConnectionError) and "Unable to bootstrap" in str(error):
        cause = cause_since(started_s, connected=False) or str(error)
        return unknown(_told(brokers, doing, _NO_CONNECTION, cause))
    what = str(error) or type(error).__name__
    if isinstance(error, AssertionError) and was_heard(NO_BROKERS[0], started_s):
        return LogUnavailableError(_told(brokers, doing, _NO_CONNECTION, NO_BROKERS[1]))
    return unknown(_told(brokers, doing, what, cause_since(started_s)))


def _named(arguments: Iterable[object]) -> str:
    """Return the names in an error of the client, which are in it one by one or as sets."""
    names: list[str] = []
    for argument in arguments:
        names += map(str, sorted(argument) if isinstance(argument, set) else [argument])
    return ", ".join(names)


def _told(brokers: object, doing: str, what: str, cause: str) -> str:
    # Whoever is told that there is no connection need not be told that one was tried.
    told = what if (what, doing) == (_NO_CONNECTION, "connecting") else f"{what} while {doing}"
    return f"{brokers}: {told}" + (f": {cause}" if cause else "")
