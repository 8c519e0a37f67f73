"""Batches prepared and moved to the device ahead of the step that needs them."""

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
    """The iterator of `prefetch`. Close it, or use it in a `with` block, to stop before the end."""

    def __init__(self, source: Iterable[T], put: Callable[[T], U], size: int) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(size)
        self._stop = threading.Event()
        self._done = False
        # the worker references the queue and the event, not this object: an abandoned Prefetch is collected and stops
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
        """Stops the thread and waits for it; at most one more item is computed and discarded."""
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
    except BaseException as error:  # any error is passed on to the consumer
        _offer(results, _Failure(error), stop)


def _offer(results: "queue.Queue[Any]", item: Any, stop: threading.Event) -> bool:
    """Waits for room in the queue; False if the consumer has stopped in the meantime."""
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
      put: applied to each item in the thread, such as `lambda b: jax.device_put(b, sharding)`.
      size: number of results that may wait, besides one being computed; they take memory on the device.

    An exception in `source` or `put` is raised at the item where it occurred, after the results before it.
    """
    if size < 1:
        raise ValueError(f"size={size}: expected 1 or more")
    return Prefetch(source, put, size)
