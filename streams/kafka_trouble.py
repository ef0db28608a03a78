"""What goes wrong with Kafka, told with its cause and what to do.

The client says little in its exceptions: a wrong password, an unknown certificate and a broker that
is down are all "Unable to bootstrap". The cause stands only in its log, which is listened to here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
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

_T = TypeVar("_T")
_KEPT: Final = 50
RETRY_S: Final = 0.1
# A process that stood still and goes on has at least so much of its deadline left.
STEP_S: Final = 1.0
LEAVE_S: Final = 1.0
_CREDENTIALS: Final = (
    "the brokers refuse these credentials: see kafka_username, kafka_password or its file, and "
    "kafka_sasl_mechanism"
)
_HOST_NAME: Final = (
    "the broker's certificate is for another host name: connect by a name that stands in it"
)
_OURS: Final = (
    "the broker does not trust our certificate: kafka_certificate_file must be signed by an "
    "authority that it knows"
)
_EXPIRED: Final = "has expired; or is a clock wrong?"
_NOBODY: Final = "no broker listens there: is it down, or the port another one?"
# What the client's log says, and what it means for whoever runs this; the first that fits.
_CAUSES: Final = (
    ("Hostname mismatch", _HOST_NAME),
    ("IP address mismatch", _HOST_NAME),
    ("certificate has expired", f"the broker's certificate {_EXPIRED}"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the broker's certificate is not trusted: kafka_ca_file must hold the authority that "
        "signed it",
    ),
    ("CERTIFICATE_EXPIRED", f"our certificate, kafka_certificate_file, {_EXPIRED}"),
    # What Java's brokers say to a client that shows no certificate at all.
    (
        "BAD_CERTIFICATE",
        "the broker wants a certificate of ours: set kafka_certificate_file and kafka_key_file",
    ),
    (
        "CERTIFICATE_REQUIRED",
        "the broker wants a certificate of ours: set kafka_certificate_file and kafka_key_file",
    ),
    ("CERTIFICATE_UNKNOWN", _OURS),
    ("UNKNOWN_CA", _OURS),
    ("WRONG_VERSION_NUMBER", "no TLS is spoken on this port: see kafka_security and the port"),
    ("kafka_token_file", "there is no token to show"),
    ("AuthenticationFailed", _CREDENTIALS),
    ("UnsupportedSaslMechanism", "this port does not take this kafka_sasl_mechanism"),
    (
        "IllegalSaslState",
        "the broker knows no user on this port (see kafka_security and the port), or refused the "
        "token in kafka_token_file",
    ),
    ("Name or service not known", "this host name is not known: see the log URL"),
    ("No address associated with hostname", "this host name is not known: see the log URL"),
    ("name resolution", "this host name cannot be looked up now"),
    ("Connect call failed", _NOBODY),
    (
        "TimeoutError",
        "the broker does not answer: does it hang, or does something on the way swallow what is "
        "sent?",
    ),
    (
        "NotEnoughReplicas",
        "fewer replicas are in sync than min.insync.replicas asks for: bring the brokers back",
    ),
    (
        "IncompleteReadError",
        "the broker hung up: it is ending, or refuses us by now: is the token in kafka_token_file "
        "still good?",
    ),
)
# So a client looks whose token was refused: it overlooks that, and learns of no broker.
_NO_BROKERS: Final = (
    "No broker metadata found",
    "the broker names no brokers, as it does when it refuses a token: is the one in "
    "kafka_token_file valid, has it expired?",
)
_NO_CONNECTION: Final = "no connection"
_HUNG_UP: Final = (
    "the broker hung up: does this port speak what kafka_security says, TLS or not, with a user or "
    "not?"
)
_HUNG_UP_SIGNS: Final = ("ConnectionResetError", "Connection at", "IncompleteReadError")
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


class _Listener(logging.Handler):
    """Keeps the newest warnings of the client, and when they came."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: deque[tuple[float, str]] = deque(maxlen=_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append((time.monotonic(), _whole(record)))


def _whole(record: logging.LogRecord) -> str:
    """Return what is said, and what caused the errors that are told of."""
    text = record.getMessage()
    for told in record.args if isinstance(record.args, tuple) else ():
        error = told
        # A time-out is a cancelled wait underneath, which says nothing.
        while isinstance(error, Exception):
            if not str(error) or str(error) not in text:
                text = f"{text.rstrip()} {type(error).__name__} {error}".rstrip()
            error = error.__cause__
    return text


_listener = _Listener()


def listen() -> None:
    """Listen to the client's log from now on; it is printed as before, if it is."""
    log = logging.getLogger("aiokafka")
    if _listener not in log.handlers:
        log.addHandler(_listener)


def cause_since(started_s: float, *, connected: bool = True) -> str:
    """Return what the client's log says of the trouble since a monotonic time, "" for nothing.

    Who was never `connected` may have come to the wrong port.
    """
    heard = _heard_since(started_s)
    at_first = () if connected else tuple((sign, _HUNG_UP) for sign in _HUNG_UP_SIGNS)
    causes = (*_CAUSES[: None if connected else -1], *at_first)
    for sign, meaning in causes:
        for text in reversed(heard):
            if sign in text:
                return f"{meaning} ({text})"
    return heard[-1] if heard else ""


def was_heard(sign: str, since_s: float) -> bool:
    """Tell whether the client's log had a warning with this in it since a monotonic time."""
    return any(sign in text for text in _heard_since(since_s))


def _heard_since(started_s: float) -> list[str]:
    return [text for at_s, text in _listener.heard if at_s >= started_s]


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
        sign, meaning = _NO_BROKERS
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
    if isinstance(error, AssertionError) and was_heard(_NO_BROKERS[0], started_s):
        return LogUnavailableError(_told(brokers, doing, _NO_CONNECTION, _NO_BROKERS[1]))
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
