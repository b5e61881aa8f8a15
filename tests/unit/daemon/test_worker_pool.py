"""Workers: in order, at once, bounded, and none is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from tests.unit.daemon.shim import PATIENCE, wait_until

from bondcni.daemon.worker_pool import Job, WorkerPool


def crew(
    size: int = 4, room: int = 100, failed: Callable[[Exception], None] = lambda _: None
) -> WorkerPool:
    return WorkerPool(size, room, lambda: None, failed)


def is_done(team: WorkerPool) -> bool:
    return not team.busy()


def is_idle(team: WorkerPool) -> bool:
    return is_done(team) and team._idle == 1


def meet(others: threading.Barrier) -> Job:
    """A job that ends when the others have come, too."""

    def job() -> None:
        others.wait()

    return job


class Gate:
    """A job that says that it runs and waits to be let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.opened.wait(PATIENCE)


def test_those_of_one_key_run_in_their_order_and_never_together() -> None:
    team = crew(8)
    seen: list[int] = []
    inside: list[int] = []
    most: list[int] = []

    def job(number: int) -> None:
        inside.append(number)
        most.append(len(inside))
        time.sleep(0.001)
        seen.append(number)
        inside.pop()

    for number in range(50):
        assert team.submit("c1", partial(job, number))
    wait_until(partial(is_done, team))
    assert seen == list(range(50))
    assert max(most) == 1


def test_different_keys_run_together() -> None:
    team = crew(3)
    meeting = threading.Barrier(3, timeout=PATIENCE)
    for key in "abc":
        team.submit(key, meet(meeting))
    wait_until(partial(is_done, team))
    assert not meeting.broken


def test_a_job_without_a_key_waits_for_no_other_of_them() -> None:
    """STATUS and GC are of no container: one that is slow is not before the others."""
    team = crew(2)
    meeting = threading.Barrier(2, timeout=PATIENCE)
    for _ in range(2):
        team.submit("", meet(meeting))
    wait_until(partial(is_done, team))
    assert not meeting.broken


def test_never_more_at_once_than_there_are_workers() -> None:
    team, lock = crew(3), threading.Lock()
    inside: list[int] = []
    most: list[int] = []

    def job() -> None:
        with lock:
            inside.append(1)
            most.append(len(inside))
        time.sleep(0.005)
        with lock:
            inside.pop()

    for number in range(30):
        team.submit(str(number), job)
    wait_until(partial(is_done, team))
    assert (len(most), max(most)) == (30, 3)


def test_one_that_was_idle_is_not_counted_on_twice() -> None:
    """Two jobs come before the one idle worker has woken: the second needs another worker."""
    for _ in range(20):
        team = crew(2)
        team.submit("a", lambda: None)
        wait_until(partial(is_idle, team))
        meeting = threading.Barrier(2, timeout=PATIENCE)
        with team._changed:  # nobody wakes in between
            for key in "ab":
                team.submit(key, meet(meeting))
        wait_until(partial(is_done, team))
        assert not meeting.broken


def test_the_room_is_bounded() -> None:
    team, gate = crew(1, 2), Gate()
    done: list[int] = []
    assert team.submit("a", gate)
    assert gate.entered.wait(PATIENCE)
    assert [team.submit("a", partial(done.append, n)) for n in range(3)] == [True, True, False]
    assert team.busy() == 3
    gate.opened.set()
    wait_until(partial(is_done, team))
    assert done == [0, 1]
    assert team.submit("a", partial(done.append, 9))
    wait_until(lambda: done == [0, 1, 9])


def test_one_that_waits_for_its_key_does_not_hold_up_the_next() -> None:
    team, gate = crew(2), Gate()
    done: list[str] = []
    team.submit("a", gate)
    team.submit("a", partial(done.append, "a"))
    team.submit("b", partial(done.append, "b"))
    wait_until(lambda: done == ["b"])
    gate.opened.set()
    wait_until(lambda: done == ["b", "a"])


def test_a_job_that_raises_ends_no_worker_and_keeps_no_key() -> None:
    told: list[Exception] = []
    team = crew(1, failed=told.append)
    done: list[int] = []

    def bad() -> None:
        raise KeyError("bad")

    for _ in range(3):
        team.submit("a", bad)
    team.submit("a", partial(done.append, 1))
    wait_until(partial(is_done, team))
    assert done == [1]
    assert [str(error) for error in told] == ["'bad'"] * 3
    assert team._started == 1


def test_it_wakes_when_it_is_not_busy_any_more() -> None:
    seen: list[int] = []
    team = WorkerPool(1, 1, lambda: seen.append(team.busy()), lambda _: None)
    team.submit("a", lambda: None)
    wait_until(lambda: seen == [0])


def test_workers_start_when_they_are_needed() -> None:
    team = crew(8)
    for _ in range(20):
        team.submit("a", lambda: None)
        wait_until(partial(is_idle, team))
    assert team._started == 1
