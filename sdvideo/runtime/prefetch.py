"""Stages in threads of their own: one a few items ahead of what takes from it, or several of one kind side by side."""

from __future__ import annotations

import atexit
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_END = object()
_PATIENCE = 10.0  # seconds for what a thread is doing when the program ends
_underway: dict[threading.Thread, threading.Event] = {}  # each with what tells it that nobody wants more


@atexit.register
def stop_all() -> None:
    """End the threads of iterators that nobody has ended: Python must not leave while they are in foreign code."""
    for stop in list(_underway.values()):
        stop.set()
    for thread in list(_underway):
        thread.join(_PATIENCE)


@contextmanager
def ahead(items: Iterable[Item], most: int = 4) -> Iterator[Iterator[Item]]:
    """Iterate over `items` in a thread, at most `most` items ahead.

    Iterating begins here: what it takes to begin, such as importing torch, can be interrupted in the main thread only.
    An error in the thread is raised where its item would have come. Leaving the context stops the thread at its next
    item, waits for it and closes a generator, so that what the items come from can be closed; who still asks gets
    CancelledError.
    """
    items = iter(items)
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
            if stop.is_set():
                raise CancelledError
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    thread = threading.Thread(target=work, daemon=True)
    _underway[thread] = stop
    thread.start()
    try:
        yield taken()
    finally:
        stop.set()
        thread.join()
        del _underway[thread]
        with suppress(queue.Full):  # then nobody waits
            ready.put_nowait((_END, None))
        if isinstance(items, Generator):
            items.close()  # whoever else holds it, such as the frames of an error: it may have threads of its own


def in_turn(streams: Iterable[Iterable[Item]], most: int) -> Iterator[Item]:
    """The items of one stream after the other, while the next one is on its way as well, at most `most` items of it."""
    underway: deque[tuple[ExitStack, Iterator[Item]]] = deque()

    def emptied() -> Iterator[Item]:
        stack, items = underway[0]
        yield from items
        stack.close()
        underway.popleft()

    try:
        for stream in streams:
            stack = ExitStack()
            underway.append((stack, stack.enter_context(ahead(stream, most))))
            if len(underway) == 2:
                yield from emptied()
        while underway:
            yield from emptied()
    finally:
        for stack, _ in underway:
            stack.close()
