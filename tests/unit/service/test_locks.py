"""Locks among processes and threads: one at a time, none left over, no wait without end."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bondcni.core.errors import JournalError, TryAgain
from bondcni.service.locks import hold


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "state")


@contextmanager
def process(work: Callable[[], object]) -> Iterator[int]:
    """A child that does ``work``, says that it has begun by then, and waits to be killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            with hold_open(work):
                os.write(writing, b".")
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"."
        yield child
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextmanager
def hold_open(work: Callable[[], object]) -> Iterator[None]:
    held = work()
    yield
    del held


def taking(folder: str, *keys: str) -> Callable[[], object]:
    """Take locks and keep them."""

    def take() -> object:
        context = hold(folder, keys, 30)
        context.__enter__()
        return context

    return take


def is_free(folder: str, *keys: str) -> bool:
    try:
        with hold(folder, keys, 0):
            return True
    except TryAgain:
        return False


def test_one_process_at_a_time(folder: str) -> None:
    with process(taking(folder, "link eth1")):
        assert not is_free(folder, "link eth1")
        assert is_free(folder, "link eth2")
    assert is_free(folder, "link eth1")


def test_one_of_several_is_enough_to_wait(folder: str) -> None:
    with process(taking(folder, "link eth1", "link eth2")):
        assert not is_free(folder, "link eth0", "link eth2")
        assert is_free(folder, "link eth0")


def test_it_dies_with_its_holder(folder: str) -> None:
    """Killed without a chance to tidy up: whoever waits gets it at once."""
    with process(taking(folder, "link eth1")) as holder:
        started = time.monotonic()
        killer = threading.Timer(0.2, os.kill, (holder, signal.SIGKILL))
        killer.start()
        with hold(folder, ["link eth1"], 10):
            waited = time.monotonic() - started
        killer.join()
        assert 0.1 < waited < 5


def test_the_deadline_names_what_is_busy(folder: str) -> None:
    with process(taking(folder, "attachment c1 bond0")):
        started = time.monotonic()
        with (
            pytest.raises(TryAgain, match="holds the lock of attachment c1 bond0") as error,
            hold(folder, ["link eth1", "attachment c1 bond0"], 0.2),
        ):
            pass
        assert 0.2 <= time.monotonic() - started < 5
        assert error.value.code == 11
        assert is_free(folder, "link eth1")


def test_two_threads_exclude_each_other(folder: str) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with hold(folder, ["link eth1"], 30):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (80, 1)


def test_any_order_ends(folder: str) -> None:
    """Each takes three of five in an order of its own: nobody waits for each other."""
    keys = [f"link eth{number}" for number in range(5)]
    done: list[bool] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311  a shuffle
        for _ in range(10):
            with hold(folder, chance.sample(keys, 3), 20):
                time.sleep(0.001)
        done.append(True)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4


def test_a_key_twice_is_one(folder: str) -> None:
    with hold(folder, ["link eth1", "link eth1"], 0):
        assert not is_free(folder, "link eth1")


def test_no_file_is_left_but_one(folder: str) -> None:
    with hold(folder, ["link eth1", "attachment c1 bond0"], 30):
        pass
    with process(taking(folder, "link eth1")):
        pass
    assert os.listdir(folder) == ["lock"]
    assert os.stat(f"{folder}/lock").st_size == 0
    assert os.stat(folder).st_mode & 0o777 == 0o700


def test_it_is_free_after_an_error(folder: str) -> None:
    with pytest.raises(KeyError), hold(folder, ["link eth1"], 30):
        raise KeyError
    assert is_free(folder, "link eth1")


def test_a_child_of_ours_does_not_keep_it(folder: str) -> None:
    """The delegate outlives us: the lock must not."""
    with hold(folder, ["link eth1"], 30):
        child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    try:
        until = time.monotonic() + 5  # posix_spawn returns before exec has closed all files
        while not is_free(folder, "link eth1"):
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(JournalError, match="lock") as error,
        hold(str(tmp_path / "file"), ["x"], 30),
    ):
        pass
    assert error.value.code == 5
