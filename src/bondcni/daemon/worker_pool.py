"""Threads that run jobs: a bounded number at a time, those of one key in their order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]


class WorkerPool:
    """Threads that start when they are first needed and run until the process ends.

    A job that raises ends no thread: the error is passed to ``failed``.
    """

    def __init__(
        self, size: int, room: int, wake: Job, failed: Callable[[Exception], None]
    ) -> None:
        """``room`` is the most jobs that may wait; ``wake`` is called after each job."""
        self._size = size
        self._room = room
        self._wake = wake
        self._failed = failed
        self._waiting: deque[tuple[str, Job]] = deque()
        self._keys: set[str] = set()  # of the running jobs
        self._running = 0
        self._idle = 0
        self._started = 0
        self._changed = threading.Condition()

    def submit(self, key: str, job: Job) -> bool:
        """Add a job; False if there is no room. Jobs without a key ("") have no order."""
        with self._changed:
            if len(self._waiting) >= self._room:
                return False
            self._waiting.append((key, job))
            self._changed.notify()
            # An idle thread may have been notified of another job and not run yet.
            if len(self._waiting) > self._idle and self._started < self._size:
                self._start()
            if not self._started:
                self._waiting.pop()
            return bool(self._started)

    def busy(self) -> int:
        """How many jobs run or wait."""
        with self._changed:
            return len(self._waiting) + self._running

    def _start(self) -> None:
        name = f"worker-{self._started + 1}"
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError:  # no more threads: the existing ones do it
            return
        self._started += 1

    def _work(self) -> None:
        while True:
            key, job = self._next()
            try:
                job()
            except Exception as error:  # noqa: BLE001  the edge of a thread
                self._failed(error)
            finally:
                with self._changed:
                    self._running -= 1
                    self._keys.discard(key)
                    self._changed.notify()
                self._wake()
            del job  # else it would keep its objects alive until the next job

    def _next(self) -> tuple[str, Job]:
        """The first job whose key has no running job."""
        with self._changed:
            while True:
                for number, (key, job) in enumerate(self._waiting):
                    if key not in self._keys:
                        del self._waiting[number]
                        self._running += 1
                        if key:
                            self._keys.add(key)
                        return key, job
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
