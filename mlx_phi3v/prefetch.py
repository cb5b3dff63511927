"""Results of a function over many items, in order, computed a bounded number ahead by threads or processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int, threads: int = 1, pool: Executor | None = None
) -> Generator[Result, None, None]:
    """`function(item)` for every item, in the items' order.

    While the caller uses one result, the next `ahead` are computed or wait. `items` may be endless. The caller's thread
    takes them, so a generator is fine; `function` runs in `threads` threads of its own, or in
    `pool` (such as a ProcessPoolExecutor), which stays open for its owner to close.

    An error of `function` or of `items` is raised in its turn, after the results before it. Closing the generator, as
    `contextlib.closing` does, drops what has not begun and waits for what has.
    """
    if ahead < 1:
        raise ValueError(f"ahead is {ahead}; it must be 1 or more")
    workers = pool or ThreadPoolExecutor(threads)
    source = iter(items)
    waiting: deque[Future[Result]] = deque()
    try:
        _fill(waiting, ahead, source, workers, function)
        while waiting:
            result = waiting.popleft().result()
            _fill(waiting, ahead, source, workers, function)
            yield result
    finally:
        for future in waiting:
            future.cancel()
        if pool is None:
            workers.shutdown(wait=True, cancel_futures=True)


def _fill(
    waiting: deque[Future[Result]], ahead: int, source: Iterator[Item], workers: Executor, function: Callable[[Item], Result]
) -> None:
    while len(waiting) < ahead:
        try:
            item = next(source)
        except StopIteration:
            return
        except Exception as error:
            failed: Future[Result] = Future()
            failed.set_exception(error)
            waiting.append(failed)  # a generator that has failed is at its end, so this comes last
            return
        waiting.append(workers.submit(function, item))
