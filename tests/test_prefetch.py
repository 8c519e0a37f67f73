"""Prefetch: order, how far ahead, errors, and no thread left behind."""

import gc
import itertools
import threading
import time

import pytest
from waiting import wait_until

from scaling.data import prefetch


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    wait_until(lambda: not workers())


def test_items_come_in_order_and_end():
    items = prefetch(range(50), lambda x: x * x, size=3)
    assert list(items) == [x * x for x in range(50)]
    assert list(items) == [] and not workers()


def test_put_runs_in_another_thread_and_only_so_far_ahead():
    made, threads = [], set()

    def put(x: int) -> int:
        threads.add(threading.current_thread().name)
        made.append(x)
        return x

    with prefetch(itertools.count(), put, size=2) as items:
        wait_until(lambda: len(made) == 3)  # two wait, one is in the making
        time.sleep(0.3)
        assert len(made) == 3
        assert next(items) == 0
        wait_until(lambda: len(made) == 4)
    assert threads == {"prefetch"}


def test_an_error_of_the_source_arrives_after_the_items_before_it():
    def source():
        yield 1
        yield 2
        raise OSError("disk gone")

    items = prefetch(source(), lambda x: x)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="disk gone"):
        next(items)
    with pytest.raises(StopIteration):
        next(items)


def test_an_error_of_put_arrives():
    items = prefetch([1, 0], lambda x: 1 / x)
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_closing_early_ends_the_thread():
    items = prefetch(itertools.count(), lambda x: x, size=1)
    next(items)
    items.close()
    assert not workers()
    assert list(items) == []
    items.close()


def test_a_forgotten_prefetch_ends_too():
    items = prefetch(itertools.count(), lambda x: x)
    next(items)
    del items  # the fixture waits for the thread


def test_leaving_by_an_exception_ends_the_thread():
    with pytest.raises(KeyboardInterrupt), prefetch(itertools.count(), lambda x: x):
        raise KeyboardInterrupt
    assert not workers()


def test_size_must_be_positive():
    with pytest.raises(ValueError, match="size=0"):
        prefetch([1], lambda x: x, size=0)
