"""Batches out of a stream that may come a line now and then."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_END = object()


def batches(records: Iterable[T], size_max: int, wait_s: float) -> Iterator[list[T]]:
    """Yield records in lists of at most `size_max`; what has come waits at most `wait_s`.

    The records are read in a thread of their own; what they raise is raised here, behind all that
    came before it.
    """
    waiting: queue.Queue[object] = queue.Queue(2 * size_max)
    failed: list[BaseException] = []

    def read() -> None:
        try:
            for record in records:
                waiting.put(record)
        except BaseException as error:  # noqa: BLE001 - raised below, where the records are taken
            failed.append(error)
        waiting.put(_END)

    threading.Thread(target=read, daemon=True).start()
    ended = False
    while not ended:
        batch = [waiting.get()]
        deadline_s = time.monotonic() + wait_s
        while len(batch) < size_max and batch[-1] is not _END:
            try:
                batch.append(waiting.get(timeout=max(0.0, deadline_s - time.monotonic())))
            except queue.Empty:
                break
        if batch[-1] is _END:
            ended = True
            batch.pop()
        if batch:
            yield batch  # type: ignore[misc]
    if failed:
        raise failed[0]
