"""What `run` tells those who watch it: the real service on a real file, asked over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from insurance_fund.events import topics
from insurance_fund.events.effects import AdlReason
from insurance_fund.events.errors import FencedError
from insurance_fund.input_lag import InputLag
from insurance_fund.logs import open_reader
from insurance_fund.metrics import exposition, new_registry
from insurance_fund.serving import CONNECTIONS_MAX, STALLED_S, Watched, listen, served
from insurance_fund.settings import load_settings
from insurance_fund.shard_collector import ShardsCollector
from insurance_fund.shard_metrics import ShardMetrics
from insurance_fund.streams.log import LogReader, TopicPartition
from insurance_fund.streams.processor import Processor
from insurance_fund.streams.sqlite import SqliteLog
from insurance_fund.version import VERSION
from tests.embedded.service import COMMAND, FENCED, Load, opened
from tests.embedded.service import Site as ServiceSite
from tests.embedded.shard import (
    GARBAGE,
    HANG_S,
    ORDINARY,
    ManualClock,
    Site,
    deposit,
    fill,
    takeover,
)
from tests.embedded.watched import (
    Scrape,
    ask,
    free_ports,
    ready,
    scrape,
    until,
    until_listening,
    until_ready,
)

INPUTS = topics.INPUT_TOPICS
LIQUIDATIONS = TopicPartition(topics.LIQUIDATIONS, 0)


@asynccontextmanager
async def service(folder: Path, port: int, **settings: str) -> AsyncIterator[ServiceSite]:
    log = SqliteLog.open(folder / "insurance-fund.db", create=True)
    load = Load(log, random.Random(port), ("USDT", "XBT"))  # noqa: S311 - moments, no secrets
    asked = {"METRICS_PORT": str(port), **settings}
    site = ServiceSite(folder, "sqlite:insurance-fund.db", log, load, asked)
    try:
        async with opened(site):
            yield site
    finally:
        await log.close()


def listening_sockets(pid: int) -> set[str]:
    """Return the sockets at which a process listens."""
    opened_ones = {path.readlink().name for path in Path(f"/proc/{pid}/fd").iterdir()}
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return opened_ones & {f"socket:[{line.split()[9]}]" for line in lines if " 0A " in line}


class TestService:
    async def test_metrics_of_a_service_are_what_its_ledger_says(self, tmp_path: Path) -> None:
        port = free_ports(1)
        async with service(tmp_path, port) as site:
            process = await site.start()
            await site.work(process, 300)
            told, status = await scrape(port), {}

            async def at_rest() -> bool:
                nonlocal told, status
                told = await scrape(port)
                status = json.loads(await site.call("status", "--format", "json"))
                written = told.value("ledger_sequence") + 1
                unread = sum(told.get("input_lag_records", topic=t) or 0 for t in INPUTS)
                return bool(status["entries"] == written >= site.load.expected and not unread)

            await until(at_rest)
            assert_told(told, status)
            assert await ready(port) == (True, [])
            process.send_signal(signal.SIGTERM)
            out, err = await process.communicate()
            assert process.returncode == 0, err
            # Deadlines go on falling due until its end.
            (written,) = re.findall(r"(\d+) entries written, \1 in all", out.decode())
            assert status["entries"] == told.value("entries_written_total") <= int(written)
            assert b"Traceback" not in err

    async def test_nothing_is_served_unless_it_is_asked_for(self, tmp_path: Path) -> None:
        port = free_ports(1)
        async with service(tmp_path, 0) as site:
            process = await site.start()
            await site.work(process, 10)
            assert not listening_sockets(process.pid)
            asked = await site.spawn(str(COMMAND), "run", INSURANCE_FUND_METRICS_PORT=str(port))
            await until_ready(port)
            assert len(listening_sockets(asked.pid)) == 1

    async def test_port_in_use_is_told_before_the_shard_is_taken(self, tmp_path: Path) -> None:
        port = free_ports(1)
        async with service(tmp_path, port) as site:
            first = await site.start()
            await site.work(first, 10)
            second = await site.start()
            _, err = await second.communicate()
            assert second.returncode == 2
            told = f"error: metrics cannot be served at 127.0.0.1:{port}: Address already in use"
            assert err.decode().startswith(told), err
            assert "metrics_port" in err.decode()
            # The first one was not fenced.
            await site.work(first, 10)

    async def test_service_that_waits_for_its_shard_is_alive_and_not_ready(
        self, tmp_path: Path
    ) -> None:
        port = free_ports(1)
        async with service(tmp_path, port) as site:
            with closing(sqlite3.connect(tmp_path / "insurance-fund.db")) as other:
                other.execute("BEGIN IMMEDIATE")
                process = await site.start()
                await until_listening(port)
                assert await ready(port) == (False, ["ledger main: not taken yet"])
                told = await scrape(port)
                assert told.value("shard_ready", ledger="main") == 0
                assert told.get("available", margin_currency="USDT") is None
                other.rollback()
            await until_ready(port)
            await site.work(process, 10)

    async def test_service_that_is_watched_ends_by_itself_as_one_that_is_not(
        self, tmp_path: Path
    ) -> None:
        port = free_ports(2)
        async with service(tmp_path, port) as site:
            first = await site.start()
            await site.work(first, 10)
            rival = await site.spawn(str(COMMAND), "run", INSURANCE_FUND_METRICS_PORT=str(port + 1))
            await until_ready(port + 1)
            _, said = await site.work_until_end(first)
            assert first.returncode == FENCED
            assert "fenced: a newer writer took shard main" in said
            assert "Traceback" not in said
            await site.work(rival, 10)

    async def test_restart_counts_from_zero_and_says_what_it_has_read_back(
        self, tmp_path: Path
    ) -> None:
        port = free_ports(1)
        async with service(tmp_path, port) as site:
            process = await site.start()
            await site.work(process, 50)
            assert (await scrape(port)).get("chain_verified_sequence") is None
            process.send_signal(signal.SIGKILL)
            await process.wait()
            entries = await site.entries()
            await site.start()
            await until_ready(port)
            told = await scrape(port)
            assert told.value("chain_verified_sequence", ledger="main") == entries - 1
            assert told.value("ledger_sequence", ledger="main") >= entries - 1
            written = told.value("entries_written_total", ledger="main")
            assert written == told.value("ledger_sequence", ledger="main") - (entries - 1)

    async def test_shards_of_one_process_are_told_apart_at_one_port(self, tmp_path: Path) -> None:
        (tmp_path / "insurance-fund.toml").write_text(
            '[shards]\nusdt = ["USDT", "USDC"]\nxbt = ["XBT", "BTC", "ETH"]\n', encoding="utf-8"
        )
        port = free_ports(1)
        async with service(tmp_path, port) as site:
            process = await site.start()
            await site.work(process, 100)
            told = await scrape(port)
            for ledger, currency, other in (("usdt", "USDT", "XBT"), ("xbt", "XBT", "USDT")):
                assert told.value("shard_ready", ledger=ledger) == 1
                assert told.value("available", ledger=ledger, margin_currency=currency) > 0
                assert told.get("available", ledger=ledger, margin_currency=other) is None
                assert told.get("input_lag_records", ledger=ledger, topic="fills") is not None

    @pytest.mark.parametrize(
        ("setting", "value", "told"),
        [
            ("METRICS_PORT", "65535", "metrics_port = 65535 leaves no ports for the 1 shards"),
            ("METRICS_PORT", "65536", "metrics_port (environment INSURANCE_FUND_METRICS_PORT)"),
            ("HTTP_HOST", "192.0.2.1", "metrics cannot be served at 192.0.2.1:"),
            ("HTTP_HOST", "no such host", "metrics cannot be served at no such host:"),
        ],
    )
    async def test_address_that_cannot_be_had_is_told_by_its_setting(
        self, tmp_path: Path, setting: str, value: str, told: str
    ) -> None:
        async with service(tmp_path, free_ports(1), **{setting: value}) as site:
            process = await site.start()
            _, err = await process.communicate()
            assert process.returncode == 2
            assert told in err.decode(), err


def assert_told(told: Scrape, status: dict[str, Any]) -> None:
    """Hold a scrape to what `status` says of the same ledger."""
    funds = status["funds"]
    assert funds
    for fund in funds:
        of = {"ledger": "main", "margin_currency": fund["margin_currency"]}
        for name in ("available", "reserved", "shortfall"):
            assert told.value(name, **of) == float(fund[name]), (name, of)
        assert told.value("delta", **of) == pytest.approx(
            float(fund["gains"]) + float(fund["draws"])
        )
    rejected = status["rejected"]
    assert rejected
    for reason, count in rejected.items():
        assert told.value("rejected_records_total", reason=reason) == count
    assert len(told.labels("rejected_records_total")) == len(rejected)
    open_ones, triggers = status["open_liquidations"], status["triggers"]
    assert told.value("open_liquidations") == len(open_ones)
    assert told.value("open_adl_triggers") == sum(one["open"] != "0" for one in triggers)
    assert told.value("adl_triggers_total", reason="order_expired") > 0
    assert told.value("duplicates_total") == status["duplicates"]
    assert told.value("parked_records") == status["parked"]
    assert told.value("dead_letters_total") == sum(rejected.values()) + status["parked_expired"]
    entries = status["entries"]
    assert told.value("ledger_sequence") == entries - 1
    assert told.value("entries_written_total") == entries
    assert told.value("transaction_duration_seconds_count") > 0
    inputs = told.value("input_to_commit_seconds_count")
    assert 0 < inputs < entries
    assert told.value("skipped_records_total") > 0
    for topic in INPUTS:
        assert told.value("input_lag_records", topic=topic, partition=0) == 0
        assert told.value("input_lag_seconds", topic=topic, partition=0) == 0


class Watch:
    """A shard of this process, and what is told of it."""

    def __init__(self, site: Site, processor: Processor) -> None:
        self.metrics = ShardMetrics(processor, site.clock.wall_ms)
        self.metrics.observe()
        settings = load_settings({"log": f"sqlite:{site.path}"}, {})
        self.lag = InputLag(partial(open_reader, settings), [processor], {}, site.clock.wall_ms)
        self.registry = new_registry(ShardsCollector([self.metrics], self.lag))
        self.metrics.recovered()

    def told(self) -> Scrape:
        """Return what a scrape would tell now."""
        return Scrape(exposition(self.registry)[0].decode())

    async def looked(self) -> Scrape:
        """Return what a scrape tells once the inputs were looked at."""
        async with asyncio.timeout(HANG_S):
            await self.lag.refresh()
        return self.told()


class TestCounting:
    async def test_what_was_decided_and_not_committed_is_not_told(self, site: Site) -> None:
        await site.open_fund()
        processor = await site.start()
        watch = Watch(site, processor)
        await processor.run()
        before = watch.told()
        assert before.value("available", margin_currency="USDT") == 100_000
        await site.publish("fund-transfers", deposit("d2"), GARBAGE)
        await site.start(log=site.open())
        with pytest.raises(FencedError):
            await processor.run()
        assert processor.state.funds["USDT"].available == 200_000
        after = watch.told()
        assert after.value("available", margin_currency="USDT") == 100_000
        assert after.value("ledger_sequence") == before.value("ledger_sequence") == 2
        assert after.value("dead_letters_total") == 0

    async def test_kinds_that_alerts_wait_for_are_there_before_the_first_of_them(
        self, site: Site
    ) -> None:
        await site.open_fund(takeover(), GARBAGE)
        processor = await site.start()
        watch = Watch(site, processor)
        told = watch.told()
        reasons = {labels["reason"] for labels in told.labels("adl_triggers_total")}
        assert reasons == set(get_args(AdlReason))
        assert {told.value("adl_triggers_total", reason=reason) for reason in reasons} == {0}
        for name in ("dead_letters_total", "fills_missing_total"):
            assert told.value(name, ledger="main") == 0
        assert not told.labels("rejected_records_total")
        await processor.run()
        assert watch.told().value("rejected_records_total", reason="not_json") == 1
        assert watch.told().value("dead_letters_total") == 1

    async def test_durations_are_from_the_records_time_to_the_commit(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund()
        clock.advance(120)
        processor = await site.start()
        watch = Watch(site, processor)
        await processor.run()
        told = watch.told()
        assert told.value("input_to_commit_seconds_count") == 2
        assert told.value("input_to_commit_seconds_sum") == pytest.approx(0.24)
        assert told.value("input_to_commit_seconds_bucket", le="0.1") == 0
        assert told.value("input_to_commit_seconds_bucket", le="0.25") == 2
        assert told.value("transaction_duration_seconds_count") == 2

    async def test_ledger_of_recordings_has_no_durations_from_their_time(self, site: Site) -> None:
        await site.open_fund()
        processor = await site.start(clock="event")
        watch = Watch(site, processor)
        await processor.run()
        told = await watch.looked()
        await watch.lag.close()
        assert told.value("entries_written_total") == 3
        assert told.get("input_to_commit_seconds_count") is None
        assert told.value("input_lag_records", topic="fund-transfers") == 0
        assert told.get("input_lag_seconds", topic="fund-transfers") is None

    async def test_counting_that_fails_does_not_end_the_service(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken() -> int:
            raise RuntimeError("no clock here")

        await site.open_fund()
        processor = await site.start(batch_max=1)
        metrics = ShardMetrics(processor, broken)
        metrics.observe()
        metrics.recovered()
        await processor.run()
        assert processor.entries_written == 3
        assert caplog.text.count("its metrics are wrong from here on") == 1


class TestLag:
    async def test_lag_is_what_was_not_read_and_how_old_its_first_record_is(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund(takeover())
        await site.publish("fills", ORDINARY, fill("f1"))
        processor = await site.start()
        watch = Watch(site, processor)
        try:
            # Nothing was read yet: where it will be read from is not known.
            assert not (await watch.looked()).labels("input_lag_records")
            await processor.run()
            await site.publish("fills", fill("f2"), fill("f3"), ORDINARY)
            clock.advance(90_000)
            watch.lag._found_at_s = float("-inf")
            told = await watch.looked()
            assert told.value("input_lag_records", topic="fills", partition=0) == 3
            assert told.value("input_lag_seconds", topic="fills", partition=0) == 90
            assert told.value("input_lag_records", topic="liquidations", partition=0) == 0
            assert told.value("input_lag_seconds", topic="liquidations", partition=0) == 0
        finally:
            await watch.lag.close()

    async def test_lag_is_absent_where_the_first_record_is_gone_or_the_log_fails(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        await site.open_fund(takeover())
        processor = await site.start()
        watch = Watch(site, processor)
        await processor.run()
        await site.publish("liquidations", takeover("liq-8"), takeover("liq-9"))
        site.delete(LIQUIDATIONS, "offset <= 1")
        told = await watch.looked()
        assert not told.labels("input_lag_records")
        assert "input lag is not known: " in caplog.text
        await watch.lag.close()

    async def test_scrapes_that_come_one_after_another_look_once(self, site: Site) -> None:
        opened_times = 0

        @asynccontextmanager
        async def counted() -> AsyncIterator[LogReader]:
            nonlocal opened_times
            opened_times += 1
            yield site.open()
            opened_times += 10

        await site.open_fund()
        processor = await site.settle()
        lag = InputLag(counted, [processor], {}, site.clock.wall_ms)
        async with asyncio.timeout(HANG_S):
            await lag.refresh()
            looked = lag._looking
            known = lag.known()
            await lag.refresh()
        assert known
        assert lag._looking is looked
        assert opened_times == 1
        await lag.close()
        assert opened_times == 11, "the log is let go"

    async def test_scrape_does_not_wait_for_a_log_that_hangs(self, site: Site) -> None:
        class Hangs:
            """A log that never answers."""

            async def partitions(self, topic: str) -> list[int]:
                await asyncio.Event().wait()
                return []

        @asynccontextmanager
        async def hangs() -> AsyncIterator[LogReader]:
            yield Hangs()  # type: ignore[misc]

        await site.open_fund()
        processor = await site.settle()
        lag = InputLag(hangs, [processor], {}, site.clock.wall_ms)
        async with asyncio.timeout(HANG_S):
            await lag.refresh()
            assert lag.known() == []
            looking = lag._looking
            await lag.refresh()
            assert lag._looking is looking, "one look at a time"
            await lag.close()


class _Fails(Collector):
    def collect(self) -> Iterator[Metric]:
        raise RuntimeError("nothing to tell")


@asynccontextmanager
async def server(collector: Collector | None = None, stalled_s: float = 10.0) -> AsyncIterator[int]:
    port = free_ports(1)
    registry = new_registry(*([] if collector is None else [collector]))
    async with served(listen("127.0.0.1", port), Watched(registry, list), stalled_s):
        yield port


class TestServer:
    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/", "/metrics/"])
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
    async def test_only_three_paths_can_be_read_and_no_browser_guesses(
        self, path: str, method: str
    ) -> None:
        async with server() as port:
            answer = await ask(port, path, method)
        known = path in {"/livez", "/readyz", "/metrics"}
        reads = method in {"GET", "HEAD"}
        assert answer.status_code == ((200 if reads else 405) if known else 404)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers

    async def test_local_server_answers_to_local_names_alone(self) -> None:
        async with server() as port:
            for host in (f"localhost:{port}", "127.0.0.1", f"[::1]:{port}"):
                assert (await ask(port, "/metrics", host=host)).status_code == 200, host
            for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", ""):
                assert (await ask(port, "/metrics", host=host)).status_code == 421, host

    async def test_metrics_come_in_the_format_that_the_scraper_wants(self) -> None:
        async with server() as port:
            plain = await ask(port, "/metrics", accept="*/*")
            wanted = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5"
            openmetrics = await ask(port, "/metrics", accept=wanted)
        assert plain.headers["content-type"].startswith("text/plain; version=")
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; ")
        assert openmetrics.text.endswith("# EOF\n")
        assert "# EOF" not in plain.text
        assert f'version="{VERSION}"' in plain.text

    async def test_failing_answer_is_one_of_its_own(self) -> None:
        async with server(_Fails()) as port:
            assert (await ask(port, "/metrics")).status_code == 500
            assert (await ask(port, "/livez")).status_code == 200

    async def test_connections_that_say_nothing_do_not_keep_others_out(self) -> None:
        async with server(stalled_s=0.2) as port:
            stalled = [
                await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)
            ]
            stalled[0][1].write(b"GET /livez HTTP/1.1\r\nhost: loc")
            try:
                assert (await ask(port, "/livez")).status_code == 503
                async with asyncio.timeout(HANG_S):
                    for reader, _ in stalled:
                        with contextlib.suppress(ConnectionError):
                            assert await reader.read() == b""
                assert (await ask(port, "/livez")).status_code == 200
            finally:
                for _, writer in stalled:
                    writer.close()

    async def test_crowd_of_connections_does_not_use_up_the_files_of_the_process(self) -> None:
        async with server() as port:
            crowd = [
                await asyncio.open_connection("127.0.0.1", port) for _ in range(5 * CONNECTIONS_MAX)
            ]
            # The last ones are sent away at once, the first may stay until they have stalled.
            try:
                async with asyncio.timeout(STALLED_S / 2):
                    for reader, _ in crowd[2 * CONNECTIONS_MAX :]:
                        with contextlib.suppress(ConnectionError):
                            assert await reader.read() == b""
            finally:
                for _, writer in crowd:
                    writer.close()

    async def test_request_that_never_ends_is_refused(self) -> None:
        async with server() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /livez HTTP/1.1\r\nx: " + b"a" * 100_000)
            async with asyncio.timeout(HANG_S):
                with contextlib.suppress(ConnectionError):
                    assert b" 400 " in (await reader.read()).splitlines()[0]
            writer.close()

    async def test_server_ends_with_what_it_watches_and_takes_no_signal(self) -> None:
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        async with server() as port:
            await ask(port, "/livez")
            assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
            assert (await ask(port, "/livez")).status_code == 200
        with pytest.raises(httpx.ConnectError):
            await ask(port, "/livez")
