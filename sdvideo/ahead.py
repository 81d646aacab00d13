"""Run a stage in a thread of its own, a few items ahead of the one that takes from it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


@contextmanager
def ahead(items: Iterable[Item], most: int = 4) -> Iterator[Iterator[Item]]:
    """Iterate over `items` in a thread, at most `most` items ahead.

    An error in the thread is raised where its item would have come. Leaving the context stops the thread at its next
    item and waits for it, so that what the items come from can be closed.
    """
    ready: queue.Queue = queue.Queue(most)
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:  # whatever it is, it belongs to the one who waits for the item
            put((_END, error))

    def taken() -> Iterator[Item]:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stop.set()
        thread.join()
