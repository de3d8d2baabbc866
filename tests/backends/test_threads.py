"""The pool of threads, their memory, and the threads of BLAS."""

from __future__ import annotations

import math
import os
import signal
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.backends.fast import memory, threads


@given(total=st.integers(1, 5000), most=st.integers(1, 600), count=st.integers(1, 9))
def test_blocks_are_equal_and_as_many_for_each_thread(total, most, count):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "count", lambda: count)
        length = threads.block_length(total, most)
    assert 1 <= length <= most
    turns = math.ceil(total / (count * most))  # what the most allows, and no more
    assert math.ceil(total / length) <= count * turns
    assert length == 1 or math.ceil(total / (length - 1)) > count * turns


def test_scratch_is_memory_that_a_thread_uses_again():
    a = memory.scratch("a test", (3, 4))
    assert a.shape == (3, 4) and a.dtype == np.float32
    assert np.shares_memory(a, memory.scratch("a test", (12,)))
    assert np.shares_memory(a, memory.scratch("a test", (2,)))
    assert not np.shares_memory(a, memory.scratch("another", (3, 4)))
    wide = memory.scratch("a test", (3, 4), np.float64)
    assert wide.dtype == np.float64 and not np.shares_memory(a, wide)
    assert memory.scratch("a test", (13,)).size == 13
    assert memory.scratch("a test", ()).shape == ()
    elsewhere = []
    other = threading.Thread(target=lambda: elsewhere.append(memory.scratch("a test", (13,))))
    other.start()
    other.join()
    assert not np.shares_memory(elsewhere[0], memory.scratch("a test", (13,)))


@pytest.mark.parametrize("blocks", [0, 1])
def test_one_block_is_done_here(monkeypatch, blocks):
    monkeypatch.setattr(threads, "count", lambda: 4)
    monkeypatch.setattr(threads, "_take", None)
    done = []
    threads.parallel(lambda i: done.append((i, threading.get_ident())), blocks)
    assert done == [(i, threading.get_ident()) for i in range(blocks)]


def test_no_more_threads_than_blocks(monkeypatch):
    monkeypatch.setattr(threads, "count", lambda: 8)
    threads._forget_workers()
    before = set(threading.enumerate())
    try:
        threads.parallel(lambda i: None, 3)
        workers = set(threading.enumerate()) - before
        assert len(workers) == 2 and all(x.daemon and x.name == "ldmref" for x in workers)
        threads.parallel(lambda i: None, 3)
        assert set(threading.enumerate()) - before == workers
        threads.parallel(lambda i: None, 100)
        assert len(set(threading.enumerate()) - before) == 7
    finally:
        threads._forget_workers()


def run_on_three_threads(monkeypatch, function):
    """Call `function(0)`, `function(1)` and `function(2)`, each on its own thread of the pool."""
    together = threading.Barrier(3)

    def block(i):
        together.wait(20)
        function(i)

    monkeypatch.setattr(threads, "count", lambda: 3)
    threads._run_on_threads(block, 3)


def test_an_error_is_raised_once(monkeypatch):
    threads._forget_workers()
    here = threading.get_ident()

    def fail(i):
        if threading.get_ident() != here:
            raise ArithmeticError(i)

    done = []
    try:
        for _ in range(2):
            with pytest.raises(ArithmeticError):
                run_on_three_threads(monkeypatch, fail)
            run_on_three_threads(monkeypatch, done.append)
        assert sorted(done) == [0, 0, 1, 1, 2, 2]
    finally:
        threads._forget_workers()


def test_blocks_have_the_context_of_their_caller(monkeypatch):
    """And not that of the caller for whom the thread was started."""
    threads._forget_workers()
    found = {}
    try:
        for mode in ("raise", "ignore", "call"):
            with np.errstate(over=mode):
                run_on_three_threads(monkeypatch, lambda i: found.update({i: np.geterr()["over"]}))
            assert found == {0: mode, 1: mode, 2: mode}
    finally:
        threads._forget_workers()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    """The threads of its parent do not exist in it; waiting for them would never end."""
    monkeypatch.setattr(threads, "count", lambda: 3)
    threads._forget_workers()
    try:
        threads.parallel(lambda i: None, 3)
        child = os.fork()
        if child == 0:
            done = []
            signal.alarm(20)
            threads.parallel(done.append, 3)
            os._exit(0 if sorted(done) == [0, 1, 2] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        threads._forget_workers()


class Blas:
    """A library as threadpoolctl describes it."""

    def __init__(self, filepath, num_threads, **more):
        self.filepath = filepath
        self.num_threads = num_threads
        self.set_to = []
        vars(self).update(more)

    def set_num_threads(self, n):
        self.set_to.append(n)


@pytest.fixture
def blas(monkeypatch):
    """Return a function `blas(*libraries)`, which replaces the loaded BLAS libraries."""

    def install(*libraries):
        class Controller:
            @property
            def lib_controllers(self):
                return list(libraries)

            def select(self, user_api):
                assert user_api == "blas"
                return self

        monkeypatch.setattr(threads, "ThreadpoolController", Controller)
        for function in (threads._blas, threads._available, threads.blas_kernels):
            function.cache_clear()
        return libraries

    yield install
    monkeypatch.undo()
    for function in (threads._blas, threads._available, threads.blas_kernels):
        function.cache_clear()


def test_the_threads_are_those_of_numpys_own_blas(blas):
    others, own = blas(
        Blas("/lib/scipy.libs/libopenblas.so", 7, architecture="Zen"),
        Blas("/lib/numpy.libs/libopenblas.so", 3, architecture="SkylakeX"),
    )
    assert threads.count() == 3 and threads.blas_kernels() == "SkylakeX"
    with threads.single_threaded_blas():
        with threads.single_threaded_blas():
            assert own.set_to == [1]
        assert own.set_to == [1]
    assert own.set_to == [1, 3] and not others.set_to


def test_a_blas_of_another_name_or_none(blas):
    blas(Blas("/lib/libmkl.so", 5))
    assert threads.count() == 5 and threads.blas_kernels() == ""
    blas(Blas("/lib/libmkl.so", None))
    assert threads.count() == 1
    blas()
    assert threads.count() == 1 and threads.blas_kernels() == ""


def test_the_number_of_threads_is_given_back_after_an_error(blas):
    (own,) = blas(Blas("/lib/numpy.libs/libopenblas.so", 3))
    with pytest.raises(ZeroDivisionError), threads.single_threaded_blas():
        raise ZeroDivisionError
    assert own.set_to == [1, 3] and threads._limits == 0


def test_a_library_obeys_every_thread(blas):
    released = []
    (own,) = blas(Blas("numpy", 2, clear_controlling_thread=lambda force: released.append(force)))
    with threads.single_threaded_blas():
        assert own.set_to == [1]
    assert released == [True, True]


def test_a_limited_library_is_not_taken_for_one_with_one_thread(blas, monkeypatch):
    """One thread asks how many there are while another one limits the library."""
    (own,) = blas(Blas("/lib/numpy.libs/libopenblas.so", 3))
    reading, limited = threading.Event(), threading.Event()
    slow = iter([True])

    class Controller(threads.ThreadpoolController):
        def select(self, user_api):
            libraries = super().select(user_api)
            if next(slow, False):
                reading.set()
                limited.wait(0.2)
            return libraries

    def set_num_threads(n):
        own.num_threads = n
        limited.set()

    monkeypatch.setattr(threads, "ThreadpoolController", Controller)
    own.set_num_threads = set_num_threads
    asking = threading.Thread(target=threads.count)
    asking.start()
    reading.wait(20)
    with threads.single_threaded_blas():
        asking.join(20)
    assert threads.count() == 3 and own.num_threads == 3
