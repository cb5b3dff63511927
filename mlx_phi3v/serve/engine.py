"""Answers requests in batches, in the one thread that runs the models.

Requests come from other threads. They join the batch of their model that is being answered, up to `batch_size`; it gives the
same tokens as each question alone (`answer_batch.AnswerBatch`). Where it is full, and stays so for some steps, another begins,
and they take turns, so that long answers do not hold up the others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from ..answer_batch import AnswerBatch, Generation, RowState
from ..batches import Example
from ..errors import UserError, report_fault
from ..sampling import Sampling
from .models import ServedModel

_TURN = 32  # steps of a full batch before another may begin beside it
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
    """A batch that is being answered, and the jobs of its rows. steps: since it last took in a job."""

    def __init__(self, job: Job) -> None:
        loaded = job.model.loaded
        self.model, self.alone, self.steps = job.model, job.alone, 0
        self.jobs: dict[int, Job] = {}
        self.batch = AnswerBatch(loaded.backend, [], loaded.prompts.stop_ids, prefixes=job.model.prefixes)

    def takes(self, job: Job) -> bool:
        """Whether the job may be answered in this batch, if there is room."""
        return job.model is self.model and not (job.alone or self.alone)

    def add(self, jobs: list[Job]) -> None:
        """Let them join. Where that fails, the jobs that were there go on."""
        self.batch.add([job.row for job in jobs])
        self.jobs |= {id(job.row): job for job in jobs}
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        for row, token in self.batch.step():
            job = self.jobs.pop(id(row)) if row.ended else self.jobs[id(row)]
            job.give(token, stopped=row.ended)


class Engine:
    """See the module. `submit` and `stop` may be called from any thread; `run` takes one."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.begun = 0  # batches
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
                with self._changed:
                    while not self._waiting and not self._running and not self._stopped:
                        self._changed.wait()
                if self._stopped:
                    return
                for running in [*self._running, None]:
                    self._take_in(running)
                for running in list(self._running):
                    self._step(running)
        finally:
            self._end()

    def stop(self) -> None:
        """Let `run` return after its present step."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _take_in(self, running: _Running | None) -> None:
        """Let those that wait join a batch where it has room; None: a new batch, where there is none for the first of them."""
        with self._changed:
            self._waiting = deque(job for job in self._waiting if not job.row.dropped)
            new = running is None
            if running is None:
                first = next(filter(self._may_begin, self._waiting), None)
                if first is None:
                    return
                running = _Running(first)
                jobs = [first] if first.alone else [job for job in self._waiting if running.takes(job)]
            else:
                jobs = [job for job in self._waiting if running.takes(job)]
            jobs = jobs[: self.batch_size - len(running.batch.rows)]
            self._waiting = deque(job for job in self._waiting if job not in jobs)
        if not jobs:
            return
        try:
            running.add(jobs)
        except Exception as error:  # of any kind, such as memory that is full: it ends these jobs, not the server
            self._failed(jobs, error, together=len(jobs) > 1 or not new)
            return
        if new:
            self.begun += 1
            self._running.append(running)

    def _may_begin(self, job: Job) -> bool:
        """Whether a new batch may begin with this job: those of its model have had their turn without it."""
        turn = all(running.steps >= _TURN for running in self._running if running.model is job.model)
        return turn and len(self._running) < _MOST_BATCHES

    def _step(self, running: _Running) -> None:
        try:
            running.step()
        except Exception as error:  # as in `_take_in`
            self._running.remove(running)
            self._failed(list(running.jobs.values()), error, together=len(running.jobs) > 1)
            return
        if not running.batch.rows:
            self._running.remove(running)

    def _failed(self, jobs: list[Job], error: Exception, together: bool) -> None:
        """End the jobs with the error; a fault of ours becomes a sentence.

        Those that were together go on, each alone: one of them may be to blame, or all took too much memory.
        """
        again = [job for job in jobs if together and not job.future.done()]
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
