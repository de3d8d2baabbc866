"""Memory and views that the fast NumPy backend uses again: no result changes later."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.backends.fast import memory, threads, winograd
from ldmref.backends.fast.winograd import transform_weight

FAST = get_backend("numpy", speed="fast")
EXACT = get_backend("numpy", speed="exact")
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape, np.float32)


SHAPES = [(2, 16, 16, 16, 24), (1, 16, 9, 7, 16), (3, 32, 4, 4, 16), (2, 16, 16, 16, 24)]


@pytest.fixture
def convolutions():
    """Return inputs of Winograd convolutions of several sizes, and the reference's results."""
    cases = []
    for n, c, h, w, out in SHAPES:
        x, weight, bias = normal(n, c, h, w), FAST.weight(normal(out, c, 3, 3)), normal(out)
        cases.append(((x, weight, bias, 1, 1), EXACT.conv2d(x, weight, bias, 1, 1)))
    return cases


def close(a, b):
    return np.abs(a - b).max() <= 3e-6 * np.abs(b).max()


def test_results_do_not_change_when_their_memory_is_used_again(convolutions):
    results = [FAST.conv2d(*arguments) for arguments, _ in convolutions]
    copies = [result.copy() for result in results]
    for arguments, _ in reversed(convolutions):
        FAST.conv2d(*arguments)
    for result, copy, (_, want) in zip(results, copies, convolutions, strict=True):
        np.testing.assert_array_equal(result, copy)
        assert close(result, want)


def test_views_are_made_once_and_again_after_the_memory_has_grown(monkeypatch):
    monkeypatch.setattr(memory, "_local", threading.local())
    made = []
    real = winograd._list_tile_steps
    monkeypatch.setattr(winograd, "_list_tile_steps", lambda *a: made.append(1) or real(*a))
    with threads.one_thread():
        u = transform_weight(normal(16, 16, 3, 3))
        small, large = normal(1, 8, 8, 16), normal(1, 16, 16, 16)
        first = winograd.winograd(small, u, None)
        winograd.winograd(small, u, None)  # in the first call, memory still grew
        made.clear()
        for _ in range(3):
            np.testing.assert_array_equal(winograd.winograd(small, u, None), first)
        assert not made
        winograd.winograd(large, u, None)
        np.testing.assert_array_equal(winograd.winograd(small, u, None), first)
        assert len(made) == 2


def test_the_number_of_remembered_views_is_bounded(monkeypatch):
    monkeypatch.setattr(memory, "_local", threading.local())
    for i in range(2 * memory.MOST_VIEWS + 3):
        assert memory.remember_views(i, lambda i=i: i + 1) == i + 1
    assert len(memory._local.views) <= memory.MOST_VIEWS


def test_threads_have_views_of_their_own(convolutions):
    wrong = []

    def work():
        for _ in range(5):
            wrong.extend(
                1 for arguments, want in convolutions if not close(FAST.conv2d(*arguments), want)
            )

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_an_interruption_leaves_nothing_behind(convolutions, monkeypatch):
    (arguments, want) = convolutions[0]
    FAST.conv2d(*arguments)
    calls = []

    def interrupted(steps, output=None):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(steps, output)

    real = winograd._run
    monkeypatch.setattr(winograd, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        FAST.conv2d(*arguments)
    assert close(FAST.conv2d(*arguments), want)
