"""Runs work on several items ahead of their use, in threads of this process or on an executor that the caller gives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_END = object()


def map_ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
    executor: Executor | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> Iterator[tuple[Item, Result]]:
    """Each item with the result of the work on it, in order, while the work on the next `ahead` items is under way.

    Items are taken in one thread. executor: runs the work; threads of this process if None. With ahead = 0 the work on
    an item begins when it is asked for. meanwhile: called once, before the first result, in the caller's thread. An
    error is raised where its result would have come. Closing the iterator does not wait for work that is under way.
    """
    if executor is not None:
        local = work

        def work(item: Item) -> Result:
            return executor.submit(local, item).result()

    items = iter(items)
    if not ahead:
        meanwhile()
        yield from ((item, work(item)) for item in items)
        return
    reader, pool = ThreadPoolExecutor(1), ThreadPoolExecutor(ahead)
    under_way: deque[Future[Any]] = deque()

    def prepare(reading: Future[Any]) -> tuple[Item, Result] | object:
        item = reading.result()
        return item if item is _END else (item, work(item))

    def start_one() -> None:
        under_way.append(pool.submit(prepare, reader.submit(next, items, _END)))

    try:
        for _ in range(ahead):
            start_one()
        meanwhile()
        while (done := under_way.popleft().result()) is not _END:
            start_one()
            yield done
    finally:
        for threads in (reader, pool):
            threads.shutdown(wait=False, cancel_futures=True)
