"""A pool of threads, each of which calls a single-threaded BLAS.

Blocks of an entire operation (product, exponential, product) parallelise better than each product
alone does. So BLAS is limited to one thread while a network runs, and the pool runs the blocks.
Operations that are too short to gain from that run on the calling thread (`divisible`): handing a
block to another thread costs between 20 and 300 microseconds, because a thread that returns from
NumPy while another one holds the GIL is put to sleep and has to be woken. The cost depends on the
processor, the kernel and the hypervisor, so it is measured here and not assumed.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from functools import cache, partial, wraps
from typing import Any, ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
T = TypeVar("T")

TRIES = 3  # measurements of each alternative; the fastest counts, which disturbances cannot lower
AGAIN = 50  # calls until both are measured again; then twice as many, and so on
LONG = 4e-3  # seconds on all threads above which one thread alone is not tried
GAIN = 0.8  # all threads must take at most this share of the time of one
MOST = 10_000  # operations to remember: a few hundred for each image size

_local = threading.local()
_limit_lock = threading.Lock()
_limits = 0  # contexts of `single_threaded_blas` entered and not yet left


@cache
def _blas() -> list[tuple[Any, int]]:
    """Return the libraries behind NumPy's matrix products with their numbers of threads.

    The caller holds `_limit_lock`: the numbers must be read before any thread limits them.
    """
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    own = [lib for lib in libraries if "numpy" in lib.filepath] or libraries
    return [(lib, lib.num_threads or 1) for lib in own]


@cache
def _available() -> int:
    """Return the number of threads that BLAS uses: OMP_NUM_THREADS, otherwise all cores."""
    with _limit_lock:
        return max((threads for _, threads in _blas()), default=1)


def count() -> int:
    """Return the number of threads that operations of the calling thread may use."""
    alone = getattr(_local, "alone", False) or getattr(_local, "inside", False)
    return 1 if alone else _available()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run the operations of the calling thread on it alone, as OMP_NUM_THREADS=1 does."""
    before = getattr(_local, "alone", False)
    _local.alone = True
    try:
        with single_threaded_blas():
            yield
    finally:
        _local.alone = before


@cache
def blas_kernels() -> str:
    """Return the processor that NumPy's OpenBLAS targets ("SkylakeX"); "" for other BLAS."""
    with _limit_lock:
        return str(next((getattr(lib, "architecture", "") for lib, _ in _blas()), ""))


class _Worker:
    """A thread that waits for a lock, which wakes it sooner than a queue would."""

    def __init__(self) -> None:
        self._go = threading.Lock()
        self._done = threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._job: Callable[[], None] | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="ldmref", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._go.acquire()
            try:
                assert self._job is not None
                self._job()
            except BaseException as error:
                self._error = error
            self._done.release()

    def start(self, job: Callable[[], None]) -> None:
        """Run a job with the caller's context variables, such as those of `np.errstate`."""
        self._job = partial(contextvars.copy_context().run, job)
        self._go.release()

    def wait(self) -> BaseException | None:
        self._done.acquire()
        error = self._error
        self._job = None
        self._error = None
        return error


_idle: list[_Worker] = []
_workers = 0  # idle or busy
_lock = threading.Lock()


def _take(wanted: int) -> list[_Worker]:
    """Take at most `wanted` idle workers; never more than `count() - 1` exist."""
    global _workers
    with _lock:
        while len(_idle) < wanted and _workers < count() - 1:
            _idle.append(_Worker())
            _workers += 1
        taken = _idle[:wanted]
        del _idle[:wanted]
        return taken


def _give_back(workers: list[_Worker]) -> None:
    with _lock:
        _idle.extend(workers)


def _forget_workers() -> None:
    global _workers, _lock
    _idle.clear()
    _workers = 0
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_forget_workers)


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit BLAS to one thread per product while any thread is inside, then restore the number."""
    global _limits
    with _limit_lock:
        _limits += 1
        if _limits == 1:
            for lib, _ in _blas():
                _set_blas_threads(lib, 1)
    outside = getattr(_local, "limits", 0)
    _local.limits = outside + 1
    try:
        yield
    finally:
        _local.limits = outside
        with _limit_lock:
            _limits -= 1
            if not _limits:
                for lib, threads in _blas():
                    _set_blas_threads(lib, threads)


def _limit_blas() -> contextlib.AbstractContextManager[None]:
    """Return `single_threaded_blas()`, or nothing to enter if the calling thread is inside of it.

    A network runs inside of it and calls hundreds of short operations.
    """
    inside = getattr(_local, "limits", 0) > 0
    return contextlib.nullcontext() if inside else single_threaded_blas()


def _set_blas_threads(lib: Any, threads: int) -> None:
    """Set a library's number of threads, called from any thread."""
    release = getattr(lib, "clear_controlling_thread", None)
    if release is not None:  # threadpoolctl 3.7 and later obey one thread only
        release(force=True)
    lib.set_num_threads(threads)


class Choice:
    """The fastest seconds of one operation, on all threads and on one.

    The first calls of a process may be disturbed for longer than the measurements take: on Zen 5
    with two cores, CLIP's products then stayed on one thread, 1.5 times as slow. So measurements
    are repeated, ever more seldom.
    """

    def __init__(self) -> None:
        self.together = math.inf
        self.alone = math.inf
        self.tries_together = 0
        self.tries_alone = 0
        self.wanted = TRIES  # measurements of each
        self.left = AGAIN  # calls until more are wanted
        self.pause = AGAIN

    @property
    def decided(self) -> bool:
        """Whether the next call need not be measured."""
        return self.tries_together >= self.wanted and self.tries_alone >= self.wanted

    def take_threads(self) -> bool:
        """Return whether the next call runs on all threads."""
        if self.tries_together == 0 or self.together > LONG:
            return True
        if not self.decided:
            return self.tries_alone >= self.tries_together
        self.left -= 1
        if self.left <= 0:
            self.wanted += TRIES
            self.pause *= 2
            self.left = self.pause
        return self.together < GAIN * self.alone

    def record(self, threads: bool, seconds: float) -> None:
        """Take one measurement into account."""
        if threads:
            self.together = min(self.together, seconds)
            self.tries_together += 1
        else:
            self.alone = min(self.alone, seconds)
            self.tries_alone += 1


_choices: dict[Hashable, Choice] = {}


def choice_for(operation: Hashable) -> Choice:
    """Return the measurements of an operation, which are kept as long as the process lives."""
    choice = _choices.get(operation)
    if choice is None:
        if len(_choices) >= MOST:
            _choices.clear()
        choice = _choices.setdefault(operation, Choice())
    return choice


def divisible(operation: Callable[P, T]) -> Callable[P, T]:
    """Run an operation on all threads or on the calling one, whichever was measured to be faster.

    The measurements (`Choice`) are those of the operation with arrays of the same shapes. On
    one thread, `count()` is 1, so the operation also makes fewer and larger blocks. The result does
    not depend on the choice.

    Args:
        operation: A function of arrays and hashable arguments that calls `parallel`.
    """

    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        _local.inside = True
        try:
            with _limit_blas():  # its threads would divide products in other places
                return operation(*args, **kwargs)
        finally:
            _local.inside = False

    @wraps(operation)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if count() < 2:
            return operation(*args, **kwargs)
        choice = choice_for((operation, *[getattr(x, "shape", x) for x in args]))
        threads = choice.take_threads()
        call = operation if threads else alone
        if choice.decided:
            return call(*args, **kwargs)
        start = time.perf_counter()
        result = call(*args, **kwargs)
        choice.record(threads, time.perf_counter() - start)
        return result

    return run


def parallel(function: Callable[[int], None], blocks: int) -> None:
    """Call `function(i)` for every i below `blocks`, on all threads; raise the first error.

    Nested calls, and those inside of an operation that runs on one thread, run on the calling
    thread.

    Args:
        function: Computes one block.
        blocks: Number of blocks.
    """
    if blocks > 1 and count() > 1:
        _run_on_threads(function, blocks)
        return
    for i in range(blocks):
        function(i)


def _run_on_threads(function: Callable[[int], None], blocks: int) -> None:
    indices = iter(range(blocks))
    guard = threading.Lock()

    def work() -> None:
        _local.inside = True
        try:
            while True:
                with guard:
                    i = next(indices, None)
                if i is None:
                    return
                function(i)
        finally:
            _local.inside = False

    with _limit_blas():
        others = _take(min(count(), blocks) - 1)
        try:
            for other in others:
                other.start(work)
            work()
        finally:
            errors = [other.wait() for other in others]
            _give_back(others)
        for error in errors:
            if error is not None:
                raise error


def block_length(total: int, maximum: int) -> int:
    """Return the length of equal blocks, at most `maximum`, with as many for each thread."""
    turns = max(1, -(-total // (count() * maximum)))
    return max(1, -(-total // (count() * turns)))
