"""Many questions to a language model at once: kept, retried, counted, and stopped when asked."""

import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ovml_deploy.errors import EndpointError
from ovml_deploy.training.interrupt import RunInterruptedError, StopRequest
from ovml_deploy.training.knowledge.answer_cache import AnswerCache
from ovml_deploy.training.knowledge.endpoint import Endpoint, Failure, Settings
from ovml_deploy.training.reporting import Reporter

_FAILURES_IN_A_ROW = 5
_LONGEST_WAIT = 600.0  # seconds; a server that asks for more is not waited for
_LONGEST_BACKOFF = 30.0
_WORTH_TELLING = 5.0  # seconds of waiting
_POLL = 0.1

#: An answer, why there is none, or None for a question left unasked.
_Result: TypeAlias = str | Failure | BaseException | None
#: Results by row; a worker that ends puts None for its last row.
_Queue: TypeAlias = "queue.SimpleQueue[tuple[int | None, _Result]]"


@dataclass
class Tally:
    """What became of the questions: known already, answered, failed; and the requests sent."""

    questions: int = 0
    known: int = 0
    answered: int = 0
    failed: int = 0
    last_failure: str = ""
    sent: int = 0

    @property
    def unasked(self) -> int:
        """How many questions the budget left unasked."""
        return self.questions - self.known - self.answered - self.failed


class Asker:
    """Asks one model; the budget of ``settings.max_requests`` is for all its questions."""

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Settings,
        cache: AnswerCache,
        reporter: Reporter,
        stop: StopRequest,
    ) -> None:
        self.tally = Tally()
        self._endpoint = endpoint
        self._settings = settings
        self._cache = cache
        self._reporter = reporter
        self._stop = stop
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self._quiet_until = 0.0  # by time.monotonic(); nothing is sent before
        self._failures_in_a_row = 0

    def ask(self, questions: Sequence[str], title: str) -> list[str | None]:
        """Return the answer to each question, None for one that failed or was left unasked.

        Raises EndpointError where asking on is of no use, DataError where answers cannot be kept,
        RunInterruptedError where a person stopped it. What was on its way is waited for, and
        every answer that came is in the cache.
        """
        answers = [self._cache.get(question) for question in questions]
        todo = queue.SimpleQueue[int]()
        for row, answer in enumerate(answers):
            if answer is None:
                todo.put(row)
        known = len(questions) - todo.qsize()
        self.tally.questions += len(questions)
        self.tally.known += known
        with self._reporter.track(title, len(questions)) as advance:
            advance(known)
            done: _Queue = queue.SimpleQueue()
            # daemons, so that a second Ctrl-C does not wait for what is on its way
            workers = [
                threading.Thread(target=self._work, args=(questions, todo, done), daemon=True)
                for _ in range(min(self._settings.concurrency, todo.qsize()))
            ]
            for worker in workers:
                worker.start()
            self._collect(len(workers), done, answers, advance)
        return answers

    def _collect(
        self,
        workers: int,
        done: _Queue,
        answers: list[str | None],
        advance: Callable[[int], None],
    ) -> None:
        error: BaseException | None = None
        while workers:
            if self._stop.requested and not self._halt.is_set():
                self._halt.set()
                self._reporter.line(
                    "Stopping. Answers that are on their way are paid for, so they are waited for; "
                    "Ctrl-C stops at once."
                )
            try:
                row, result = done.get(timeout=_POLL)
            except queue.Empty:
                continue
            if row is None:
                workers -= 1
                continue
            if isinstance(result, BaseException):
                error = error or result
            if isinstance(result, str):
                answers[row] = result
            if result is not None:
                advance(1)
        if error is not None:
            raise error
        if self._stop.requested:
            raise RunInterruptedError(self.kept())

    def kept(self) -> str:
        """Tell a person that nothing is lost."""
        count = self.tally.answered + self.tally.known
        return (
            f"{count:,} answers are kept in {str(self._cache.path)!r}; the same command goes on from "
            "there."
        )

    def _work(self, questions: Sequence[str], todo: "queue.SimpleQueue[int]", done: _Queue) -> None:
        """Ask until there is nothing to do; what goes wrong is raised where it is collected."""
        while not self._halt.is_set():
            try:
                row = todo.get_nowait()
            except queue.Empty:
                break
            try:
                result = self._judge(self._answer(questions[row]))
            except BaseException as error:
                result = error
            if isinstance(result, BaseException):
                self._halt.set()
            done.put((row, result))
        done.put((None, None))

    def _judge(self, result: _Result) -> _Result:
        """Count a result. Raises EndpointError where no other question should be asked."""
        with self._lock:
            if isinstance(result, str):
                self.tally.answered += 1
                self._failures_in_a_row = 0
            if not isinstance(result, Failure):
                return result
            self.tally.failed += 1
            self.tally.last_failure = result.reason
            self._failures_in_a_row += 1
        address = self._endpoint.address
        if result.hopeless:
            raise EndpointError(
                f"{address} refuses: {result.reason}. Check --base-url, --model and the key. "
                f"{self.kept()}"
            )
        if self._failures_in_a_row >= _FAILURES_IN_A_ROW:
            raise EndpointError(
                f"{address} failed {_FAILURES_IN_A_ROW} times in a row, at last with: "
                f"{result.reason}. {self.kept()}"
            )
        return result

    def _answer(self, question: str) -> _Result:
        backoff = self._settings.first_wait
        result: _Result = None
        for attempt in range(self._settings.attempts):
            if attempt:
                self._halt.wait(backoff * random.uniform(0.75, 1.0))
                backoff = min(2 * backoff, _LONGEST_BACKOFF)
            if not self._may_send():
                return None
            result = self._endpoint.send(question)
            if isinstance(result, str):
                self._cache.put(question, result)
                return result
            if not result.retry or (result.wait or 0) > _LONGEST_WAIT:
                return result
            self._keep_quiet(result)
        return result

    def _may_send(self) -> bool:
        """Wait until the server wants to hear from us; then take one request of the budget."""
        while (pause := self._quiet_until - time.monotonic()) > 0:
            if self._halt.wait(pause):
                return False
        most = self._settings.max_requests
        with self._lock:
            if self._halt.is_set() or (most is not None and self.tally.sent >= most):
                return False
            self.tally.sent += 1
            return True

    def _keep_quiet(self, failure: Failure) -> None:
        """Do as Retry-After says, all workers together."""
        if failure.wait is None:
            return
        until = time.monotonic() + failure.wait
        with self._lock:
            longer = until - max(self._quiet_until, time.monotonic())
            self._quiet_until = max(self._quiet_until, until)
        if longer > _WORTH_TELLING:
            self._reporter.line(f"The server asks to wait {failure.wait:.0f} s ({failure.reason}).")
