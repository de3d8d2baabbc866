"""The engine: models, a bounded queue and a worker for each device, and the jobs that ended."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping

from ldmref.apps.server.adapters import Adapters
from ldmref.apps.server.errors import (
    Gone,
    QueueFull,
    Stopping,
    UnknownJob,
    UnknownModel,
    as_ldmref_error,
)
from ldmref.apps.server.jobs import JobReport, ServedJob
from ldmref.apps.server.served import Served
from ldmref.apps.server.tasks import ServedTask
from ldmref.apps.server.templates import PromptTemplates
from ldmref.errors import Cancelled, LdmrefError, UsageError, did_you_mean, short_repr
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.support.server_settings import ServerSettings

REMEMBERED = 10_000  # ids of jobs that are gone
SWEEP_SECONDS = 5.0  # from one removal of old results to the next at most
PLANNERS = 4  # requests that are read and checked at the same time
LONGEST_RETRY = 60  # seconds


class DeviceQueue:
    """The queue and the worker's thread of one device."""

    def __init__(self, device: str):
        self.device = device
        self.waiting: deque[ServedJob] = deque()
        self.running: ServedJob | None = None
        self.thread: threading.Thread | None = None


class Engine:
    """Run tasks one after the other on each device, and keep their results for a while.

    Args:
        models: The models by name; the first is the default. Models on one device share a worker.
        settings: The limits.
        sources: The name or path from which each model was loaded, for clients on this machine.
        reason: Why the models are on their backend, for clients; "" if nobody says it.
        controlnets: The ControlNets that requests may name.

    Example:
        >>> import ldmref
        >>> from ldmref.apps.server.inputs import plan_task
        >>> engine = Engine({"tiny": ldmref.random_model("tiny")})
        >>> job = engine.submit(plan_task(engine, "txt2img", {"prompt": "a cat", "steps": 2}))
        >>> job.wait(), job.state, len(job.images), job.images[0].png[1:4]
        (True, 'done', 1, b'PNG')
        >>> engine.close()
    """

    def __init__(
        self,
        models: Mapping[str, LatentDiffusion],
        settings: ServerSettings | None = None,
        sources: Mapping[str, str] | None = None,
        reason: str = "",
        controlnets: Mapping[str, ControlNet] | None = None,
    ):
        if not models:
            raise UsageError("an engine needs a model", code="E-MODEL")
        self.models = dict(models)
        self.served = Served(self.models, dict(controlnets or {}))
        self.settings = settings or ServerSettings()
        self.adapters = Adapters(self.models, self.settings)
        self.templates = PromptTemplates(self.settings)
        self.sources = dict(sources or {})
        self.reason = reason
        self._changed = threading.Condition()
        self.planning = threading.BoundedSemaphore(PLANNERS)
        self._jobs: dict[str, ServedJob] = {}  # the oldest first
        self._ended: deque[ServedJob] = deque()  # the first to end first
        self._bytes = 0  # of the jobs that have ended
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._closed = False
        devices = map(device_of, models.values())
        self._queues = {device: DeviceQueue(device) for device in devices}
        for queue in self._queues.values():
            name = f"ldmref worker {queue.device}"
            queue.thread = threading.Thread(
                target=self._run_queue, args=(queue,), name=name, daemon=True
            )
            queue.thread.start()

    def find_model(self, name: str | None) -> str:
        """Return the name of a model; None is the default.

        Raises:
            UnknownModel: The server does not have it.
        """
        if name is None:
            return next(iter(self.models))
        if not isinstance(name, str) or name not in self.models:
            hint = did_you_mean(name if isinstance(name, str) else "", self.models)
            raise UnknownModel(f"unknown model {short_repr(name)}", code="E-MODEL", hint=hint)
        return name

    def check_room(self, model: str | None = None) -> None:
        """Check that a job for a model could be submitted now.

        Raises:
            QueueFull: All places are taken.
            Stopping: The engine is being closed.
            UnknownModel: The server does not have it.
        """
        queue = self._queue(self.find_model(model))
        with self._changed:
            self._require_room(queue)

    def submit(self, task: ServedTask, model: str | None = None) -> ServedJob:
        """Queue a task and return its job.

        Args:
            task: What to run.
            model: The name of the model; None is the default.

        Raises:
            QueueFull: All places are taken.
            Stopping: The engine is being closed.
            UnknownModel: The server does not have it.
        """
        name = self.find_model(model)
        queue = self._queue(name)
        job = ServedJob(task, name, self._leave_queue)
        with self._changed:
            self._require_room(queue)
            self._jobs[job.id] = job
            queue.waiting.append(job)
            self._number(queue)
            self._changed.notify_all()
        self.sweep()
        return job

    def get(self, id: str) -> ServedJob:
        """Return a job.

        Raises:
            UnknownJob: There has never been such a job.
            Gone: Its lifetime is over.
        """
        self.sweep()
        with self._changed:
            if id in self._jobs:
                return self._jobs[id]
            gone = id in self._gone
        if gone:
            raise Gone(
                f"the job {short_repr(id)} is gone",
                code="E-GONE",
                hint=f"results are kept for {self.settings.lifetime:g} s",
            )
        raise UnknownJob(f"unknown job {short_repr(id)}", code="E-JOB")

    def cancel(self, id: str) -> ServedJob:
        """Cancel a job: a waiting one leaves the queue, a running one stops at its next step.

        Raises:
            UnknownJob, Gone: As for `get`.
        """
        job = self.get(id)
        job.cancel()
        return job

    def jobs(self) -> list[ServedJob]:
        """Return the jobs that are known, the newest first."""
        self.sweep()
        with self._changed:
            return list(reversed(self._jobs.values()))

    def close(self, timeout: float = 5.0) -> None:
        """Take no more jobs, cancel those that wait, give the others time to end, and stop.

        Args:
            timeout: Seconds in which everything stops; running jobs may use half of them.
        """
        end = time.monotonic() + timeout
        with self._changed:
            if self._closed:
                return
            self._closed = True
            waiting = [job for queue in self._queues.values() for job in queue.waiting]
            running = [queue.running for queue in self._queues.values() if queue.running]
            self._changed.notify_all()
        for job in waiting:
            job.cancel()
        for job in running:
            job.wait(max(0.0, end - timeout / 2 - time.monotonic()))
            job.cancel()
        for queue in self._queues.values():
            if queue.thread is not None:
                queue.thread.join(max(0.0, end - time.monotonic()))
        for job in running:  # a step that takes too long ends in its thread, unseen
            self._end(job, Cancelled("the server stopped", code="E-CANCELLED"))

    def sweep(self) -> None:
        """Forget jobs that ended too long ago, and the oldest results beyond the limit of bytes."""
        limits = self.settings
        with self._changed:
            while self._ended:
                job = self._ended[0]
                age = time.time() - (job.finished or 0.0)
                if age <= limits.lifetime and self._bytes <= limits.max_results:
                    break
                self._ended.popleft()
                self._bytes -= job.size
                del self._jobs[job.id]
                self._gone[job.id] = None
            while len(self._gone) > REMEMBERED:
                self._gone.popitem(last=False)

    # -- queue and workers ------------------------------------------------------------------------

    def _queue(self, model: str) -> DeviceQueue:
        return self._queues[device_of(self.models[model])]

    def _require_room(self, queue: DeviceQueue) -> None:
        if self._closed:
            raise Stopping("the server is stopping", code="E-STOPPING")
        room = self.settings.queue + (queue.running is None)
        if len(queue.waiting) >= room:
            full = QueueFull(
                f"the queue is full: {len(queue.waiting)} jobs wait",
                code="E-QUEUE",
                hint="try again later",
            )
            left = queue.running.progress.get("seconds_left") if queue.running else None
            full.retry_after = min(LONGEST_RETRY, 1 + math.ceil(left or 0.0))
            raise full

    def _leave_queue(self, job: ServedJob) -> None:
        """End a cancelled job that still waits."""
        queue = self._queue(job.model)
        with self._changed:
            if job in queue.waiting:
                queue.waiting.remove(job)
                self._end(job, Cancelled("cancelled", code="E-CANCELLED"))
                self._number(queue)

    def _number(self, queue: DeviceQueue) -> None:
        """Tell the waiting jobs their positions."""
        for position, job in enumerate(queue.waiting):
            job.queue_at(position)

    def _run_queue(self, queue: DeviceQueue) -> None:
        """Run the jobs of a queue until the engine is closed."""
        while True:
            with self._changed:
                while not queue.waiting and not self._closed:
                    if not self._changed.wait(SWEEP_SECONDS):
                        self.sweep()
                if not queue.waiting:
                    return
                job = queue.running = queue.waiting.popleft()
                task = job.task
                job.start()
                self._number(queue)
            assert task is not None
            error = self._run(job, task)
            with self._changed:
                queue.running = None  # whoever learns of the end finds a free place
            self._end(job, error)
            del job, task

    def _run(self, job: ServedJob, task: ServedTask) -> LdmrefError | None:
        """Run one job and return its error; whatever it raises is its own failure."""
        try:
            if job.cancelled.is_set():
                raise Cancelled("cancelled", code="E-CANCELLED")
            task.run(self.models[job.model], JobReport(job), job.cancelled)
        except BaseException as error:  # plug-ins and libraries raise any class
            return as_ldmref_error(error)
        return None

    def _end(self, job: ServedJob, error: LdmrefError | None = None) -> None:
        """End a job, and keep its results for their lifetime."""
        if not job.end(error):
            return
        with self._changed:
            self._ended.append(job)
            self._bytes += job.size
        self.sweep()


def device_of(model: LatentDiffusion) -> str:
    """Return the device of a model, such as `cpu` or `cuda:0`."""
    return str(model.backend.describe()["device"])
