"""Results come in order, a bounded number ahead; errors come in their turn; nothing runs on after the end."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from mlx_phi3v.prefetch import prefetch


def test_results_come_in_order_whatever_each_takes() -> None:
    def slow(n: int) -> int:
        time.sleep(0.01 * (n % 3 == 0))
        return n * n

    assert list(prefetch(slow, range(20), ahead=5, threads=3)) == [n * n for n in range(20)]
    assert list(prefetch(slow, [], ahead=1)) == []


@pytest.mark.parametrize("ahead", [1, 4])
def test_no_more_than_asked_is_taken_ahead(ahead: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    with closing(prefetch(str, items(), ahead=ahead, threads=2)) as results:
        assert taken == 0  # nothing begins before the first result is asked for
        for got in range(1, 6):
            assert next(results) == str(got)
            assert taken == got + ahead


def test_the_next_is_made_while_the_caller_works() -> None:
    begun = threading.Event()

    def make(n: int) -> int:
        if n == 1:
            begun.set()
        return n

    with closing(prefetch(make, itertools.count(), ahead=1)) as results:
        next(results)
        assert begun.wait(60)


def test_an_error_comes_after_the_results_before_it() -> None:
    def fails(n: int) -> int:
        if n == 3:
            raise KeyError("three")
        return n

    got = []
    with pytest.raises(KeyError, match="three"):
        for n in prefetch(fails, range(9), ahead=8, threads=4):
            got.append(n)
    assert got == [0, 1, 2]


def test_an_error_of_the_items_comes_in_its_turn_too() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("no third")

    got = []
    with pytest.raises(ValueError, match="no third"):
        for n in prefetch(int, items(), ahead=8):
            got.append(n)
    assert got == [1, 2]


def test_closing_drops_what_has_not_begun_and_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    free = threading.Event()

    def waits(n: int) -> int:
        begun.append(n)
        assert n == 0 or free.wait(60)
        return n

    before = threading.active_count()
    results = prefetch(waits, range(50), ahead=10)
    assert next(results) == 0
    shutdown = ThreadPoolExecutor.shutdown

    def freeing(pool: ThreadPoolExecutor, *, wait: bool = True, cancel_futures: bool = False) -> None:
        free.set()  # once what has not begun is dropped
        shutdown(pool, wait=wait, cancel_futures=cancel_futures)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", freeing)
    results.close()
    assert len(begun) <= 3 and threading.active_count() <= before


def test_a_pool_of_the_callers_stays_open() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(prefetch(abs, [-1, -2], ahead=2, pool=pool)) == [1, 2]
        assert pool.submit(abs, -3).result() == 3


def test_no_room_ahead_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="ahead is 0"):
        next(prefetch(abs, [1], ahead=0))
