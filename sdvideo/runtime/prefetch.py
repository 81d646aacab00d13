"""Prefetches iterators in background threads, so that the stages of a pipeline run at the same time."""

from __future__ import annotations

import atexit
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import copy_context
from typing import Any, TypeVar

Item = TypeVar("Item")
_END = object()
_JOIN_SECONDS = 10.0  # how long a program that ends waits for what a thread is doing
_running: dict[threading.Thread, threading.Event] = {}  # each thread with the event that stops it


@atexit.register
def stop_all() -> None:
    """Stop the threads of iterators that nobody has closed: Python must not exit while they run native code."""
    for stop in list(_running.values()):
        stop.set()
    for thread in list(_running):
        thread.join(_JOIN_SECONDS)


def prefetch(items: Iterable[Item], ahead: int = 4) -> AbstractContextManager[Iterator[Item]]:
    """Iterate over `items` in a background thread, at most `ahead` items before they are used.

    iter(items) is called here, in the caller's thread: what it does, such as importing torch, can be interrupted in the
    main thread only. An error in the background thread is raised where its item would have come. Leaving the context
    stops the thread at its next item, waits for it, and closes a generator, so that what the items come from can be
    closed; whoever still asks for items gets CancelledError.
    """
    return _prefetch(iter(items), ahead)


@contextmanager
def _prefetch(items: Iterator[Item], ahead: int) -> Iterator[Iterator[Item]]:
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(ahead)
    stop = threading.Event()

    def put(item: object, error: BaseException | None = None) -> bool:
        while not stop.is_set():
            try:
                ready.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:  # of any kind: it belongs to whoever waits for the item
            put(_END, error)

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

    thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True)
    _running[thread] = stop
    thread.start()
    try:
        yield taken()
    finally:
        stop.set()
        thread.join()
        del _running[thread]
        with suppress(queue.Full):  # a full queue means that nobody waits
            ready.put_nowait((_END, None))
        if isinstance(items, Generator):
            items.close()  # others may hold it, such as the frames of a traceback, and it may have threads of its own


def prefetch_in_turn(streams: Iterable[Iterable[Item]], ahead: int) -> Iterator[Item]:
    """The items of one stream after the other, while the next stream is prefetched, at most `ahead` items of it."""
    running: deque[tuple[ExitStack, Iterator[Item]]] = deque()

    def drain_first() -> Iterator[Item]:
        stack, items = running[0]
        yield from items
        stack.close()
        running.popleft()

    try:
        for stream in streams:
            stack = ExitStack()
            running.append((stack, stack.enter_context(prefetch(stream, ahead))))
            if len(running) == 2:
                yield from drain_first()
        while running:
            yield from drain_first()
    finally:
        for stack, _ in running:
            stack.close()
