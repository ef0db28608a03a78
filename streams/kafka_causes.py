"""What the client's log says of trouble, and what it means for whoever runs this.

The client says little in its exceptions: a wrong password, an unknown certificate and a broker that
is down are all "Unable to bootstrap". The cause stands only in its log, which is listened to here.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Final

_KEPT: Final = 50
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
NO_BROKERS: Final = (
    "No broker metadata found",
    "the broker names no brokers, as it does when it refuses a token: is the one in "
    "kafka_token_file valid, has it expired?",
)
_HUNG_UP: Final = (
    "the broker hung up: does this port speak what kafka_security says, TLS or not, with a user or "
    "not?"
)
_HUNG_UP_SIGNS: Final = ("ConnectionResetError", "Connection at", "IncompleteReadError")


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
