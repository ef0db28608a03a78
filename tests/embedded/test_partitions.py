"""Topics with several partitions: whoever publishes there agrees on which key goes where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from insurance_fund.events import topics
from insurance_fund.streams.log import NewRecord, TopicPartition
from insurance_fund.streams.partitions import count_partitions, partition_of
from insurance_fund.streams.sqlite import SqliteLog
from tests.embedded.command import run_command
from tests.embedded.log_contract import records_to_end

PARTITIONS = 3


@pytest.mark.parametrize("key", ["liq-1", "USDT", ""])
def test_key_has_one_partition_however_often_it_is_asked(key: str) -> None:
    found = {partition_of(key.encode(), PARTITIONS) for _ in range(3)}
    assert len(found) == 1
    assert found <= set(range(PARTITIONS))
    assert partition_of(key.encode(), 1) == 0


async def test_published_lines_of_one_liquidation_stand_in_one_partition_in_their_order(
    tmp_path: Path,
) -> None:
    log = SqliteLog.open(tmp_path / "log.db", create=True)
    await log.publish(topics.FILLS, [NewRecord(n, b"", b"{}") for n in range(PARTITIONS)])
    assert await count_partitions(log, (topics.FILLS, topics.LIQUIDATIONS)) == {
        topics.FILLS: PARTITIONS,
        topics.LIQUIDATIONS: 1,
    }
    lines = [{"liquidation_id": f"liq-{n % 10}", "fill_id": f"f{n}"} for n in range(50)]
    given = "".join(f"{json.dumps(line)}\n" for line in [*lines, {"fill_id": "of-nobody"}])
    run_command(tmp_path, "publish", topics.FILLS, stdin=f"{given}no JSON\n".encode())
    published = []
    for number in range(PARTITIONS):
        records, _ = await records_to_end(log, TopicPartition(topics.FILLS, number), 1)
        values = [record.value or b"" for record in records]
        if number == 0:
            # What has no key.
            assert values[-2:] == [b'{"fill_id": "of-nobody"}', b"no JSON"]
            values = values[:-2]
        found = [json.loads(value) for value in values]
        names = {line["liquidation_id"] for line in found}
        assert names, number
        assert {partition_of(name.encode(), PARTITIONS) for name in names} == {number}
        assert found == [line for line in lines if line["liquidation_id"] in names]
        published += found
    assert len(published) == len(lines)
    await log.close()
