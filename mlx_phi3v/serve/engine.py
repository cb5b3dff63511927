"""Answers requests in batches, in the one thread that runs the models.

Requests come from other threads. Those that wait when a batch begins are answered together, up to `batch_size`; a batch
gives the same tokens as each question alone (`decoding.AnswerBatch`). A second batch begins after some steps of the first, and
they take turns, so that a long answer does not hold up the others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from ..batches import Example
from ..decoding import AnswerBatch, Generation, RowState
from ..errors import UserError, report_fault
from ..sampling import Sampling
from .models import ServedModel

_TURN = 32  # steps of a batch before another may begin beside it
_MOST_BATCHES = 4  # at a time; each has a cache of its own
MOST_WAITING = 64  # requests, whose crops are in memory


class Busy(Exception):
    """As many requests wait as may."""


class Ended(Exception):
    """The server is ending."""


class Job:
    """A question that waits for its answer, or is being answered. on_token gets its tokens, in the engine's thread."""

    def __init__(
        self, model: ServedModel, example: Example, sampling: Sampling, max_new_tokens: int,
        on_token: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.row = RowState(example, sampling, max_new_tokens)
        self.on_token = on_token
        self.alone = False  # whether it is answered in a batch of its own
        self.future: Future[Generation] = Future()

    def drop(self) -> None:
        """Nobody waits for the answer any more: it leaves its batch with the next token."""
        self.row.dropped = True
        self.future.cancel()

    def fail(self, error: BaseException) -> None:
        """End it with an error, where it has not ended."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def give(self, token: int, stopped: bool) -> None:
        """Pass on a token, and the answer where that was its last."""
        if self.on_token is not None and self.row.answer.finish != "end" and not self.row.dropped:
            self.on_token(token)
        if stopped:
            with suppress(InvalidStateError):
                self.future.set_result(self.row.answer)


class _Running:
    """A batch that is being answered, and the jobs of its rows."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = {id(job.row): job for job in jobs}
        self.steps = 0
        loaded = jobs[0].model.loaded
        self.batch = AnswerBatch(loaded.backend, [job.row for job in jobs], loaded.prompts.stop_ids)

    def step(self) -> None:
        self.steps += 1
        given = self.batch.step()
        staying = {id(row) for row in self.batch.rows}
        for row, token in given:
            self.jobs[id(row)].give(token, stopped=id(row) not in staying)


class Engine:
    """See the module. `submit` and `stop` may be called from any thread; `run` takes one."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.answered = 0  # batches that were begun
        self._waiting: deque[Job] = deque()
        self._running: list[_Running] = []
        self._stopped = False
        self._changed = threading.Condition()

    def submit(self, job: Job) -> Job:
        """Queue a question. Raises Busy where too many wait, Ended where the server is ending."""
        with self._changed:
            if self._stopped:
                raise Ended
            if len(self._waiting) >= MOST_WAITING:
                raise Busy
            self._waiting.append(job)
            self._changed.notify()
        return job

    def run(self) -> None:
        """Answer until `stop` is called. What then waits or is being answered ends with `Ended`."""
        try:
            while True:
                jobs = self._next_jobs()
                if self._stopped:
                    return
                if jobs:
                    self._begin(jobs)
                for running in list(self._running):
                    self._step(running)
        finally:
            self._end()

    def stop(self) -> None:
        """Let `run` return after its present step."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _next_jobs(self) -> list[Job]:
        """The questions of a new batch; none where its turn has not come. Waits where there is nothing to do."""
        with self._changed:
            while not self._waiting and not self._running and not self._stopped:
                self._changed.wait()
            turn = all(running.steps >= _TURN for running in self._running) and len(self._running) < _MOST_BATCHES
            if not turn or self._stopped:
                return []
            jobs: list[Job] = []
            later: deque[Job] = deque()
            for job in self._waiting:
                if job.row.dropped:
                    continue
                fits = not jobs or (job.model is jobs[0].model and not (job.alone or jobs[0].alone))
                fits = fits and len(jobs) < self.batch_size
                (jobs if fits else later).append(job)
            self._waiting = later
            return jobs

    def _begin(self, jobs: list[Job]) -> None:
        self.answered += 1
        try:
            self._running.append(_Running(jobs))
        except Exception as error:  # of any kind, such as memory that is full: it ends these jobs, not the server
            self._failed(jobs, error)

    def _step(self, running: _Running) -> None:
        try:
            running.step()
        except Exception as error:  # as in `_begin`
            running.batch.rows = []
            self._failed(list(running.jobs.values()), error)
        if not running.batch.rows:
            self._running.remove(running)

    def _failed(self, jobs: list[Job], error: Exception) -> None:
        """End the jobs that have no answer yet with the error; a fault of ours becomes a sentence.

        Of several, those without a token yet are tried again, each alone: one of them may be to blame, or all took too
        much memory together.
        """
        again = [job for job in jobs if len(jobs) > 1 and not job.row.answer.token_ids and not job.future.done()]
        told = error if isinstance(error, UserError) or len(again) == len(jobs) else UserError(report_fault(error))
        for job in jobs:
            if job not in again:
                job.fail(told)
        for job in again:
            job.alone = True
        with self._changed:
            self._waiting.extendleft(reversed(again))

    def _end(self) -> None:
        with self._changed:
            self._stopped = True
            left = [*self._waiting, *(job for running in self._running for job in running.jobs.values())]
            self._waiting.clear()
            self._running.clear()
        for job in left:
            job.fail(Ended())
