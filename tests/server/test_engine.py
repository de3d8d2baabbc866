"""The engine without a web server: the queue, workers, results, and what happens when it ends."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest
from PIL import Image

from ldmref import modes
from ldmref.apps.server import engine as engine_module
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.errors import Gone, QueueFull, Stopping, UnknownJob, UnknownModel, status_of
from ldmref.apps.server.inputs import plan_task
from ldmref.apps.server.tasks import GenerateTask
from ldmref.errors import NumericError, UsageError

SECONDS = 60.0


def generate(engine, seed=1, **values):
    values = {"prompt": "a cat", "steps": 1, "seed": seed} | values
    return engine.submit(plan_task(engine, "txt2img", values))


def finish(job):
    assert job.wait(SECONDS), f"{job.state} after {SECONDS} s"
    return job


def test_a_hundred_parallel_jobs_have_their_own_images_and_seeds(start_engine, tiny):
    engine = start_engine({"tiny": tiny}, queue=100)
    jobs = {}

    def submit(seed):
        jobs[seed] = generate(engine, seed)

    threads = [threading.Thread(target=submit, args=(seed,)) for seed in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, job in jobs.items():
        (image,) = finish(job).images
        assert (image.seed, image.params["seed"]) == (seed, seed)
    assert len({job.images[0].png for job in jobs.values()}) == 100
    alone = modes.txt2img(tiny, "a cat", steps=1, seed=42)
    assert jobs[42].images[0].params == alone.params_of(0)


def test_a_full_queue_refuses(start_engine, tiny, gated):
    engine = start_engine({"tiny": tiny}, queue=2)
    first = gated()
    running = engine.submit(first)
    assert first.started.wait(SECONDS)
    waiting = [engine.submit(gated()) for _ in range(2)]
    assert [job.position for job in waiting] == [0, 1]
    for refused in (lambda: engine.submit(gated()), engine.check_room):
        with pytest.raises(QueueFull, match="2 jobs wait") as caught:
            refused()
        assert status_of(caught.value) == 429 and 1 <= caught.value.retry_after <= 60
    waiting[0].cancel()
    assert waiting[0].state == "cancelled" and waiting[1].position == 0
    engine.submit(gated())
    first.gate.set()
    assert finish(running).state == "done"


def test_no_place_in_the_queue_still_runs_one_job_after_the_other(start_engine, tiny):
    engine = start_engine({"tiny": tiny}, queue=0)
    for seed in range(5):
        assert finish(generate(engine, seed)).state == "done"


def test_a_running_job_is_cancelled_within_a_step_and_frees_its_place(start_engine, tiny):
    engine = start_engine({"tiny": tiny}, queue=1)
    long = generate(engine, steps=1000, sampler="euler", count=10)
    while not long.progress.get("step"):
        time.sleep(0.005)
    following = generate(engine)
    assert engine.cancel(long.id) is long
    assert finish(following).state == "done"
    assert finish(long).state == "cancelled" and long.error is None
    assert long.progress["image"] * 1000 + long.progress["step"] < 9000
    assert engine.cancel(long.id).state == "cancelled"


class Fatal(BaseException):
    """As a plug-in might raise it."""


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (MemoryError(), "E-MEMORY", 503),
        (NumericError("NaN in step 3", code="E-NAN"), "E-NAN", 500),
        (UsageError("not so", code="E-STEPS"), "E-STEPS", 422),
        (ZeroDivisionError("/home/me/secret.py"), "E-INTERNAL", 500),
        (SystemExit(3), "E-INTERNAL", 500),
        (Fatal("out"), "E-INTERNAL", 500),
    ],
)
def test_an_error_fails_its_job_only(start_engine, tiny, gated, error, code, status, caplog):
    def act(report, cancel):
        raise error

    engine = start_engine({"tiny": tiny})
    task = gated(act)
    task.gate.set()
    job = finish(engine.submit(task))
    assert (job.state, job.error.code, status_of(job.error)) == ("failed", code, status)
    assert "secret" not in str(job.describe())
    assert ("ZeroDivisionError" in caplog.text) is isinstance(error, ZeroDivisionError)
    assert "secret" not in caplog.text
    assert finish(generate(engine)).state == "done"


def test_results_are_gone_after_their_lifetime(start_engine, tiny):
    engine = start_engine({"tiny": tiny}, lifetime=0.05)
    job = finish(generate(engine))
    time.sleep(0.1)
    with pytest.raises(Gone, match="is gone"):
        engine.get(job.id)
    assert engine.jobs() == []
    with pytest.raises(UnknownJob):
        engine.get("never")


def test_old_results_leave_by_themselves(start_engine, tiny, monkeypatch):
    monkeypatch.setattr(engine_module, "SWEEP_SECONDS", 0.02)
    engine = start_engine({"tiny": tiny}, lifetime=0.02)
    finish(generate(engine))
    end = time.monotonic() + SECONDS
    while engine._jobs and time.monotonic() < end:
        time.sleep(0.01)
    assert not engine._jobs


def test_the_oldest_results_leave_if_they_take_too_much(start_engine, tiny):
    engine = start_engine({"tiny": tiny}, max_results=15_000)
    jobs = [finish(generate(engine, seed)) for seed in range(12)]
    end = time.monotonic() + SECONDS
    while len(engine.jobs()) == 12 and time.monotonic() < end:
        time.sleep(0.01)
    kept = engine.jobs()
    assert 0 < len(kept) < 12 and kept == jobs[-len(kept) :][::-1]
    assert sum(job.size for job in kept) <= 15_000
    with pytest.raises(Gone):
        engine.get(jobs[0].id)


def test_the_end_frees_the_inputs(start_engine, tiny):
    engine = start_engine({"tiny": tiny})
    job = finish(generate(engine))
    assert job.task is None


def test_a_failed_job_frees_the_arrays_of_its_frames(start_engine, tiny, gated):
    kept = []

    def act(report, cancel):
        large = np.zeros(1000).view(Watched)
        kept.append(weakref.ref(large))
        try:
            raise ValueError(large)
        except ValueError as cause:
            raise NumericError("NaN in step 3", code="E-NAN") from cause

    engine = start_engine({"tiny": tiny})
    task = gated(act)
    task.gate.set()
    job = finish(engine.submit(task))
    gc.collect()
    assert job.error.code == "E-NAN" and kept[0]() is None


class Watched(np.ndarray):
    """An array that can be watched by a weak reference."""


def workers():
    """Return the threads of all engines in this process, also those of other tests' servers."""
    return {t for t in threading.enumerate() if t.name.startswith("ldmref worker")}


def test_models_by_name(start_engine, tiny, gated):
    before = workers()
    engine = start_engine({"one": tiny, "two": tiny})
    assert engine.submit(gated()).model == "one"
    assert engine.submit(gated(), "two").model == "two"
    with pytest.raises(UnknownModel, match="unknown model 'tow'") as caught:
        engine.submit(gated(), "tow")
    assert "'two'" in caught.value.hint and status_of(caught.value) == 404
    assert len(workers() - before) == 1
    with pytest.raises(UsageError):
        Engine({})


def test_closing_ends_everything(start_engine, tiny, gated):
    before = workers()
    engine = start_engine({"tiny": tiny})
    task = gated()
    running = engine.submit(task)
    waiting = engine.submit(gated())
    assert task.started.wait(SECONDS)
    engine.close(0.4)
    assert (running.state, waiting.state) == ("cancelled", "cancelled")
    with pytest.raises(Stopping):
        engine.submit(gated())
    assert workers() <= before


def test_closing_lets_a_job_end(start_engine, tiny, gated):
    engine = start_engine({"tiny": tiny})
    task = gated()
    job = engine.submit(task)
    assert task.started.wait(SECONDS)
    threading.Timer(0.05, task.gate.set).start()
    engine.close(20.0)
    assert job.state == "done"


def test_an_inversion_gives_its_noise(start_engine, tiny):
    engine = start_engine({"tiny": tiny})
    photo = Image.new("RGB", (16, 16), "teal")
    plan = modes.plan("invert", tiny, prompt="a cat", image=photo, steps=2)
    job = finish(engine.submit(GenerateTask(plan)))
    assert job.state == "done" and not job.images
    media_type, content = job.files["noise.npy"]
    assert media_type == "application/octet-stream" and content[:6] == b"\x93NUMPY"
    assert job.data["settings"]["sampler"] == "ddim"


# -- events ---------------------------------------------------------------------------------------


async def collect(job, **options):
    return [event async for event in job.subscribe(**options)]


def test_events_of_a_job_in_order(start_engine, tiny):
    engine = start_engine({"tiny": tiny})
    job = finish(generate(engine, steps=3, count=2))
    events = asyncio.run(collect(job))
    names = [event.name for event in events]
    assert names[-1] == "done" and names.count("image") == 2
    assert names.index("queued") < names.index("started") < names.index("image")
    numbers = [event.number for event in events]
    assert numbers == sorted(numbers)
    last = events[-1]
    assert last.data["state"] == "done" and len(last.data["images"]) == 2
    assert asyncio.run(collect(job, after=last.number)) == []
    assert [e.number for e in asyncio.run(collect(job, after=numbers[-3]))] == numbers[-2:]


def test_a_slow_reader_gets_the_latest_progress_only(start_engine, tiny, gated):
    def act(report, cancel):
        for step in range(1000):
            report.progress(step, 1000)

    engine = start_engine({"tiny": tiny})
    task = gated(act)
    job = engine.submit(task)
    task.gate.set()
    finish(job)
    events = asyncio.run(collect(job))
    assert [e.data["step"] for e in events if e.name == "progress"] == [999]


def test_previews_are_made_for_readers_only(start_engine, tiny, gated, monkeypatch):
    wanted = []
    seen = threading.Event()

    def act(report, cancel):
        wanted.append(report.wanted())
        if wanted[-1]:
            report.progress(2, 10)
            report.preview(0, Image.new("RGB", (1000, 500), "teal"))
            wanted.append(report.wanted())
            assert seen.wait(SECONDS)  # the end removes previews

    engine = start_engine({"tiny": tiny})
    unread = gated(act)
    unread.gate.set()
    finish(engine.submit(unread))
    assert wanted == [False]

    async def read(previews):
        task = gated(act)
        job = engine.submit(task)
        events = []
        async for event in job.subscribe(previews=previews):
            events.append(event)
            task.gate.set()
            if event.name == "preview":
                seen.set()
        return [event for event in events if event.name == "preview"]

    assert asyncio.run(read(False)) == [] and wanted == [False, False]
    (preview,) = asyncio.run(read(True))
    assert wanted[2:] == [True, False]  # less than half a second later
    assert (preview.data["index"], preview.data["step"]) == (0, 2)
    assert size_of(preview.data["image"]) == (256, 128)


def size_of(url):
    import base64
    import io

    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data))).size


def test_time_left_is_measured(start_engine, tiny, gated):
    left = []

    def act(report, cancel):
        for step in range(4):
            report.progress(step, 4, 0, 3, 2)
            left.append(job.progress["seconds_left"])
            time.sleep(0.05)

    engine = start_engine({"tiny": tiny})
    task = gated(act)
    job = engine.submit(task)
    task.gate.set()
    finish(job)
    assert left[0] is None
    per_step = left[1] / 7  # three steps of this batch, four of the next
    assert 0.04 < per_step < 5.0
    assert left[2] / 6 > 0.04


@pytest.mark.slow
def test_memory_is_flat_after_a_thousand_jobs(start_engine, tiny):
    import resource

    engine = start_engine({"tiny": tiny}, lifetime=0.0)

    def used():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    for seed in range(200):
        finish(generate(engine, seed))
    before = used()
    for seed in range(1000):
        finish(generate(engine, seed))
    assert used() - before < 8 * 2**20
    assert len(engine._jobs) <= 2 and np.isfinite(engine._bytes)
