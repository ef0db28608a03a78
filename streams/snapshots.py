"""Snapshots: what a ledger has come to, kept aside so that a start need not fold all of it.

They are advisory. The topic `fund-snapshots` is compacted; a ledger's snapshots stand in the
partition that has the ledger's number, alternately in two slots:

| key | value |
|---|---|
| `<ledger>/<slot>/<n>` | the n-th chunk of the content, from 0 |
| `<ledger>/<slot>/manifest` | JSON: `{"manifest": {...}, "sha256": "<of the bytes of manifest>"}` |

The manifest is published last, so that one that was cut short does not fit its chunks. A snapshot
is used only if it is whole, of this software's `STATE_VERSION` and of this ledger, and the ledger
has the entry that it ends with; else it is ignored with a warning and what it spares is folded.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from insurance_fund.events import topics
from insurance_fund.events.errors import CorruptionError, InsuranceFundError
from insurance_fund.events.ledger import sha256_hex
from insurance_fund.events.terms import Position
from insurance_fund.fund.state import STATE_VERSION, State
from insurance_fund.streams.lines import partition_records
from insurance_fund.streams.log import LogReader, Record, TopicPartition

_log = logging.getLogger(__name__)

VERSION: Final = 1
SLOTS: Final = ("a", "b")
RECORDS_A_READ: Final = 32

Positions = dict[TopicPartition, Position]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a snapshot is of, and what its chunks must come to.

    `sequence` entries were folded; the last one stands at `offset` of the ledger's partition, and
    its bytes have the SHA-256 `head`. `size` is in bytes.
    """

    version: int
    state_version: int
    software: str
    ledger: str
    sequence: int
    head: str
    offset: int
    chunks: int
    size: int
    sha256: str


class Place(NamedTuple):
    """Which snapshot is the newest in use: its slot, and how many entries it spares."""

    slot: str
    sequence: int


# Where there is none, it is as if the last slot had one of an empty ledger.
NOWHERE: Final = Place(SLOTS[-1], 0)


class Snapshot(NamedTuple):
    """A state, the positions that belong to it, and where to read on in the ledger."""

    place: Place
    state: State
    positions: Positions
    next_offset: int


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    manifest: msgspec.Raw
    sha256: str


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    state: State
    positions: dict[str, Position]


@dataclass(slots=True)
class _Stored:
    """What stands in a slot: the manifest's bytes, and the offset of each chunk by its number."""

    manifest: bytes | None = None
    chunks: dict[str, int] = field(default_factory=dict)


# In the order of insertion, in which orders, rings and parked records were come to.
_encoder = msgspec.json.Encoder()
_content_decoder = msgspec.json.Decoder(_Content)
_sealed_decoder = msgspec.json.Decoder(_Sealed)
_manifest_decoder = msgspec.json.Decoder(Manifest)
_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
_RINGS: Final = tuple(
    info.name for info in msgspec.structs.fields(State) if info.default_factory is OrderedDict
)


def encode_content(state: State, positions: Positions) -> bytes:
    """Return a state and its positions as bytes that keep every order."""
    return _encoder.encode(_Content(state, {str(where): p for where, p in positions.items()}))


def decode_content(content: bytes) -> tuple[State, Positions]:
    """Return the state and the positions that `encode_content` was given.

    Raises CorruptionError for bytes that are none of its.
    """
    try:
        found = _content_decoder.decode(content)
        positions = {_partition(name): position for name, position in found.positions.items()}
    except _UNREADABLE as error:
        raise CorruptionError(f"its content cannot be read: {error}") from error
    for ring in _RINGS:
        setattr(found.state, ring, OrderedDict(getattr(found.state, ring)))
    return found.state, positions


def _partition(name: str) -> TopicPartition:
    topic, _, number = name.rpartition(":")
    return TopicPartition(topic, int(number))


def seal(manifest: Manifest) -> bytes:
    """Return the value of a manifest's record: the manifest, and the SHA-256 of its bytes."""
    encoded = _encoder.encode(manifest)
    return _encoder.encode(_Sealed(msgspec.Raw(encoded), sha256_hex(encoded)))


async def newest_snapshot(log: LogReader, where: TopicPartition, ledger: str) -> Snapshot | None:
    """Return the newest snapshot of a ledger that is good, None where there is none.

    `where` is the ledger's partition. Whatever is wrong with a snapshot is warned of, never raised.
    """
    place = TopicPartition(topics.FUND_SNAPSHOTS, where.partition)
    try:
        stored = await _stored(log, place)
    except InsuranceFundError as error:
        _log.warning("ledger %s is read from its first entry: no snapshots: %s", ledger, error)
        return None
    names = sorted(stored, key=lambda name: _rank(stored[name]), reverse=True)
    for name, *others in (names[index:] for index in range(len(names))):
        try:
            return await _load(log, place, where, ledger, name, stored[name])
        except InsuranceFundError as error:
            instead = f"{others[0]!r} is tried" if others else "all of its entries are read"
            _log.warning(
                "ledger %s: snapshot %r is ignored: %s; %s instead", ledger, name, error, instead
            )
    return None


async def _stored(log: LogReader, place: TopicPartition) -> dict[str, _Stored]:
    """Return what stands in a partition by `<ledger>/<slot>`; chunks stay where they are."""
    stored: dict[str, _Stored] = {}
    if place.partition not in await log.partitions(place.topic):
        return stored
    first = await log.first_offset(place)
    async for record in partition_records(log, place, first, RECORDS_A_READ):
        name, _, part = (record.key or b"").decode(errors="replace").rpartition("/")
        slot = stored.setdefault(name, _Stored())
        if part == "manifest":
            slot.manifest = record.value
        else:
            slot.chunks[part] = record.offset
    return stored


def _rank(stored: _Stored) -> tuple[bool, int]:
    """Return how new a snapshot is; one that cannot say so may be the newest, and is warned of."""
    try:
        return False, _opened(stored).sequence
    except CorruptionError:
        return True, 0


def _opened(stored: _Stored) -> Manifest:
    if stored.manifest is None:
        raise CorruptionError("it has no manifest")
    try:
        sealed = _sealed_decoder.decode(stored.manifest)
        manifest = _manifest_decoder.decode(sealed.manifest)
    except _UNREADABLE as error:
        raise CorruptionError(f"its manifest cannot be read: {error}") from error
    if sha256_hex(bytes(sealed.manifest)) != sealed.sha256:
        raise CorruptionError("its manifest was altered")
    return manifest


async def _load(
    log: LogReader,
    place: TopicPartition,
    where: TopicPartition,
    ledger: str,
    name: str,
    stored: _Stored,
) -> Snapshot:
    manifest = _opened(stored)
    if (manifest.version, manifest.state_version) != (VERSION, STATE_VERSION):
        raise CorruptionError(
            f"{manifest.software} wrote it in version {manifest.version} with a state of version "
            f"{manifest.state_version}, this is {VERSION} with {STATE_VERSION}"
        )
    owner, _, slot = name.rpartition("/")
    if not owner == manifest.ledger == ledger or slot not in SLOTS:
        raise CorruptionError(f"it is of ledger {manifest.ledger!r}")
    await _check_ledger(log, where, manifest)
    state, positions = decode_content(await _content(log, place, stored, manifest))
    found = (state.ledger, state.sequence, state.head)
    if found != (manifest.ledger, manifest.sequence, manifest.head):
        raise CorruptionError(f"its state is of {found}, not what its manifest says")
    return Snapshot(Place(slot, manifest.sequence), state, positions, manifest.offset + 1)


async def _check_ledger(log: LogReader, where: TopicPartition, manifest: Manifest) -> None:
    """Raise an error unless the ledger has the entry that the snapshot ends with."""
    if where.partition not in await log.partitions(where.topic):
        raise CorruptionError(f"{where} has no ledger")
    record = await _record_at(log, where, manifest.offset)
    if record is None or sha256_hex(record.value or b"") != manifest.head:
        raise CorruptionError(
            f"entry {manifest.sequence - 1} of the ledger, at offset {manifest.offset}, is not the "
            "one that it ends with"
        )


async def _record_at(log: LogReader, where: TopicPartition, offset: int) -> Record | None:
    records = (await log.read(where, offset, 1)).records
    return records[0] if records and records[0].offset == offset else None


async def _content(
    log: LogReader, place: TopicPartition, stored: _Stored, manifest: Manifest
) -> bytes:
    chunks = list[bytes]()
    for number in range(manifest.chunks):
        offset = stored.chunks.get(str(number))
        record = None if offset is None else await _record_at(log, place, offset)
        if record is None or record.value is None:
            raise CorruptionError(f"chunk {number} of its {manifest.chunks} is missing")
        chunks.append(record.value)
    content = b"".join(chunks)
    if len(content) != manifest.size:
        raise CorruptionError(f"its chunks have {len(content)} bytes, not {manifest.size}")
    if sha256_hex(content) != manifest.sha256:
        raise CorruptionError(
            "its chunks are not those of its manifest: it was cut short or altered"
        )
    return content
