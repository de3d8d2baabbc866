"""Operations run on all threads or on one, whichever was measured to be faster."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.backends.fast import threads
from ldmref.backends.fast.threads import AGAIN, GAIN, LONG, TRIES, Choice


def settle(together, alone, calls=4 * TRIES):
    """Make `calls` calls of an operation with these durations; return the ways they ran."""
    measurements = Choice()
    ways = []
    for i in range(calls):
        threads_taken = measurements.take_threads()
        ways.append(threads_taken)
        measurements.record(threads_taken, together(i) if threads_taken else alone(i))
    return measurements, ways


@given(together=st.floats(1e-6, LONG), alone=st.floats(1e-6, 1.0))
def test_the_faster_way_is_taken_after_a_few_calls(together, alone):
    measurements, ways = settle(lambda i: together, lambda i: alone)
    assert measurements.decided
    assert ways[0], "the first call of a large operation must not be slow"
    assert ways[: 2 * TRIES].count(True) == ways[: 2 * TRIES].count(False) == TRIES
    assert set(ways[2 * TRIES :]) == {together < GAIN * alone}


@given(together=st.floats(LONG * 1.001, 10.0))
def test_a_long_operation_is_never_tried_on_one_thread(together):
    measurements, ways = settle(lambda i: together, lambda i: 1e-9)
    assert all(ways) and not measurements.decided


def test_one_disturbed_measurement_does_not_decide():
    _, ways = settle(lambda i: 1e-3, lambda i: 9e-3 if i == 1 else 0.5e-3)
    assert ways[-1] is False
    _, ways = settle(lambda i: 3e-3 if i == 0 else 0.5e-3, lambda i: 1e-3)
    assert ways[-1] is True
    _, ways = settle(lambda i: 1.0 if i == 0 else 0.5e-3, lambda i: 0.1e-3)
    assert ways[-1] is False, "a cold first call must not count as a long operation"


def test_a_disturbed_start_is_forgotten():
    """The first calls of a process may all be disturbed, those on one way more than the others."""

    def disturbed(seconds):
        return lambda i: 2e-3 if i < 2 * TRIES else seconds

    calls = AGAIN + 4 * TRIES
    _, ways = settle(disturbed(0.5e-3), lambda i: 1e-3, calls)
    assert ways[2 * TRIES] is False and ways[-1] is True
    _, ways = settle(lambda i: 1e-3, disturbed(0.5e-3), calls)
    assert ways[2 * TRIES] is True and ways[-1] is False


def test_measurements_become_rare():
    measurements, ways = settle(lambda i: 1e-3, lambda i: 1e-3, calls=100 * AGAIN)
    assert measurements.decided
    assert ways.count(True) <= 8 * TRIES, "the slower way is taken 8 times 3 in 5000 calls"


def test_the_choices_are_kept_by_operation_and_bounded(monkeypatch):
    monkeypatch.setattr(threads, "_choices", {})
    monkeypatch.setattr(threads, "MOST", 3)
    first = threads.choice_for("a")
    assert threads.choice_for("a") is first and threads.choice_for("b") is not first
    for name in "cdefgh":
        threads.choice_for(name)
    assert len(threads._choices) <= 3


@pytest.fixture
def clock(monkeypatch):
    """Two threads, no earlier choices, and a clock that operations set."""
    now = [0.0]
    monkeypatch.setattr(threads, "_choices", {})
    monkeypatch.setattr(threads, "_available", lambda: 2)
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now[0])
    threads._forget_workers()
    yield now
    threads._forget_workers()


@pytest.mark.parametrize("cost_of_handing_over", [1e-3, 0.0])
def test_short_operations_end_on_the_calling_thread(clock, cost_of_handing_over):
    """The operation takes 0.4 ms; on two threads half of it, plus the cost of handing over."""

    @threads.divisible
    def operation(x):
        done = []
        count = threads.count()
        threads.parallel(lambda i: done.append(threading.current_thread()), 2 * count)
        assert len(done) == 2 * count and (count == 2 or set(done) == {threading.current_thread()})
        clock[0] += 4e-4 if count == 1 else 2e-4 + cost_of_handing_over
        return x

    x = np.zeros((4, 4))
    for _ in range(2 * TRIES):
        assert operation(x) is x
    start = clock[0]
    operation(x)
    assert clock[0] - start == pytest.approx(min(4e-4, 2e-4 + cost_of_handing_over))
    # other shapes are another operation, whose first call runs on all threads
    start = clock[0]
    operation(np.zeros((5, 5)))
    assert clock[0] - start == pytest.approx(2e-4 + cost_of_handing_over)


def test_operations_with_other_arguments_are_measured_apart(clock):
    counts = []

    @threads.divisible
    def operation(x, size):
        counts.append(threads.count())
        clock[0] += size * (1e-4 if threads.count() == 1 else 1e-3 if size == 1 else 1e-5)

    for size in (1, 2):
        for _ in range(2 * TRIES):
            operation(np.zeros(3), size)
        counts.clear()
        operation(np.ones(3), size)
        assert counts == [size]  # one thread for size 1, two for size 2
    assert len(threads._choices) == 2


@pytest.mark.parametrize("way", [True, False])
def test_an_error_reaches_the_caller_and_leaves_no_trace(clock, monkeypatch, way):
    monkeypatch.setattr(Choice, "take_threads", lambda self: way)
    caller = threading.current_thread()
    both_run = threading.Barrier(2 if way else 1, timeout=20)

    def fail(i):
        both_run.wait()
        if way == (threading.current_thread() is not caller):
            raise ZeroDivisionError

    operation = threads.divisible(lambda x: threads.parallel(fail, 2))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            operation(np.zeros(2))
        assert threads.count() == 2
    assert not any(c.tries_together or c.tries_alone for c in threads._choices.values())


@pytest.mark.parametrize("take_threads", [True, False])
def test_two_models_run_at_once_on_threads_of_their_own(clock, monkeypatch, take_threads):
    import ldmref

    monkeypatch.setattr(Choice, "take_threads", lambda self: take_threads)
    models = [ldmref.random_model("tiny", seed=seed) for seed in (0, 1)]
    config = models[0].config.unet
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, config.in_channels, 32, 32), np.float32)
    text = rng.standard_normal((2, 5, config.cross_attention_dim), np.float32)
    t = np.array([10.0, 500.0], np.float32)
    with threads.one_thread():
        wanted = [model.unet(x, t, text) for model in models]
    wrong = []

    def work(model, want):
        wrong.extend(1 for _ in range(4) if not np.array_equal(model.unet(x, t, text), want))

    callers = [
        threading.Thread(target=work, args=pair) for pair in zip(models, wanted, strict=True)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_the_result_does_not_depend_on_the_choice(clock, monkeypatch):
    from ldmref.backends import get_backend

    backend = get_backend("numpy", dtype="float32", speed="fast")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 64, 16, 16), np.float32)
    weight = backend.weight(rng.standard_normal((64, 64, 3, 3), np.float32))
    tokens = rng.standard_normal((2, 4, 256, 40), np.float32)
    scale = np.ones(64, np.float32)
    results = []
    for take_threads in (True, False):
        monkeypatch.setattr(Choice, "take_threads", lambda self, way=take_threads: way)
        results.append(
            [
                backend.conv2d(x, weight, scale, padding=1),
                backend.group_norm_silu(x, scale, scale, 8, 1e-5),
                backend.attention(tokens, tokens, tokens),
            ]
        )
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_thread_is_for_the_calling_thread_only():
    threads._blas()
    elsewhere = []
    with threads.one_thread():
        assert threads.count() == 1
        with threads.one_thread():
            assert threads.count() == 1
        assert threads.count() == 1
        other = threading.Thread(target=lambda: elsewhere.append(threads.count()))
        other.start()
        other.join()
    assert elsewhere == [threads._available()] == [threads.count()]


@pytest.mark.parametrize("speed", ["fast", "fastest"])
@pytest.mark.parametrize("shape", [(2, 16, 16, 96, 64), (2, 5, 3, 64, 96), (3, 40, 24, 64, 80)])
def test_a_convolution_does_not_depend_on_the_number_of_threads(monkeypatch, shape, speed):
    """Threads share its rows of tile entries or, if there are more of them, its stages."""
    from ldmref.backends import get_backend

    (n, h, w, c, out) = shape
    backend = get_backend("numpy", dtype="float32", speed=speed)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, c, h, w), np.float32)
    weight = backend.weight(rng.standard_normal((out, c, 3, 3), np.float32))
    bias = rng.standard_normal(out, np.float32)
    monkeypatch.setattr(Choice, "take_threads", lambda self: True)
    results = []
    for count in (1, 2, 3, 4, 8):
        monkeypatch.setattr(threads, "_available", lambda count=count: count)
        threads._forget_workers()
        with threads.single_threaded_blas():
            results.append(backend.conv2d(x, weight, bias, padding=1))
            np.testing.assert_array_equal(backend.conv2d(x, weight, bias, padding=1), results[0])
    threads._forget_workers()
    for result in results:
        np.testing.assert_array_equal(result, results[0])


def test_blocks_inside_of_blocks_have_one_thread(monkeypatch):
    monkeypatch.setattr(threads, "_available", lambda: 2)
    monkeypatch.setattr(threads, "_choices", {})
    counts = []
    threads.parallel(lambda i: counts.append(threads.count()), 2)
    assert counts == [1, 1] and threads.count() == 2
