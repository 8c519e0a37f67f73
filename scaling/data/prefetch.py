"""Batches made and moved to the device ahead of the step that needs them."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
U = TypeVar("U")
_END = object()


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class Prefetch(Iterator[U], Generic[U]):
    """What `prefetch` gives. Close it, or use it in a `with` block, to leave before the end."""

    def __init__(self, source: Iterable[T], put: Callable[[T], U], size: int) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(size)
        self._stop = threading.Event()
        self._done = False
        # the worker knows the queue and the event, not this object: a forgotten Prefetch can be collected and so ends
        arguments = (source, put, self._queue, self._stop)
        self._thread = threading.Thread(target=_work, args=arguments, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> U:
        if self._done:
            raise StopIteration
        item = self._queue.get()
        if item is _END or isinstance(item, _Failure):
            self.close()
        if isinstance(item, _Failure):
            raise item.error
        if item is _END:
            raise StopIteration
        result: U = item
        return result

    def close(self) -> None:
        """Stops the thread and waits for it: at most one more item is made, and thrown away."""
        self._done = True
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        stop = getattr(self, "_stop", None)
        if stop is not None:
            stop.set()


def _work(
    source: Iterable[Any], put: Callable[[Any], Any], results: "queue.Queue[Any]", stop: threading.Event
) -> None:
    try:
        for item in source:
            if stop.is_set() or not _offer(results, put(item), stop):
                return
        _offer(results, _END, stop)
    except BaseException as error:  # whatever it is, the consumer is told
        _offer(results, _Failure(error), stop)


def _offer(results: "queue.Queue[Any]", item: Any, stop: threading.Event) -> bool:
    """Waits for room; False where the consumer has left in the meantime."""
    while not stop.is_set():
        try:
            results.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def prefetch(source: Iterable[T], put: Callable[[T], U], size: int = 2) -> Prefetch[U]:
    """`put(item)` for each item of `source`, computed by a background thread up to `size` items ahead.

    Args:
      source: items, such as batches in the order of steps; may be endless.
      put: what is done with each in the thread, such as `lambda b: jax.device_put(b, sharding)`.
      size: results that may wait, and one more is in the making; they take memory on the device.

    An exception of `source` or `put` is raised at the item where it happened, after the results before it.
    """
    if size < 1:
        raise ValueError(f"size={size}: expected 1 or more")
    return Prefetch(source, put, size)
