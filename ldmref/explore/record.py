"""Record a run: the image of a mode, byte for byte, and everything that led to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ldmref.errors import UsageError
from ldmref.explore.attention import AVERAGE, AttentionBackend, average_maps
from ldmref.explore.format import CODE, FORMAT, RunRecord
from ldmref.explore.preview import preview_matrix
from ldmref.io.images.pil import open_image
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.callbacks import check_callbacks, notify
from ldmref.modes.cost import explain_memory
from ldmref.modes.embeddings import NAMES as EMBEDDINGS
from ldmref.modes.generate import Callback, CancelFlag, Progress
from ldmref.modes.plan import AnyPlan, plan
from ldmref.modes.record import SOURCES
from ldmref.modes.run import Plan, Run
from ldmref.modes.trajectory import Trajectory
from ldmref.prompts.prompt_words import PromptWord, find_words
from ldmref.samplers.denoiser import Evaluation
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.version import __version__

RECORDED = ("uncond", "cond")  # predictions, besides the guided one


def record_run(
    model: LatentDiffusion,
    mode: str = "txt2img",
    /,
    *,
    attention: bool = True,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    **parameters: Any,
) -> RunRecord:
    """Generate one image and record every state, prediction and attention map on the way.

    The image is that of the mode, byte for byte: the run is observed and not changed. The record
    takes about 16 n c h w bytes for n steps and latents (c, h, w), and 2 n h' w' bytes for each
    word: 1.3 MB with the embedded model, 60 MB with SDXL at 50 steps. Nothing else is kept between
    steps.

    Args:
        model: From `ldmref.load` or `ldmref.random_model`.
        mode: A mode that samples: any except for `invert`.
        attention: Whether to record a map of cross-attention for each word. On a backend that
            compiles networks this takes a second evaluation per step, which is not compiled.
        callback: Called after every step with a `Progress`.
        cancel: A `threading.Event`; once it is set, `Cancelled` is raised before the next step.
        parameters: Those of the mode, all by name; one image.

    Returns:
        The record.

    Raises:
        UsageError: A parameter is wrong, or there are several images.
        Cancelled, NumericError, ResourceError: See `ldmref.errors`.

    >>> import ldmref
    >>> record_run(ldmref.random_model("tiny"), prompt="a red cat", seed=1, steps=3)
    <RunRecord of txt2img: 'a red cat', 3 steps>
    """
    check_callbacks(callback, cancel)
    run = prepare_one(model, mode, parameters)
    trajectory = run.trajectory(slice(0, 1))
    return record_trajectory(run, trajectory, None, attention, callback, cancel)


def prepare_one(model: LatentDiffusion, mode: str, parameters: Mapping[str, Any]) -> Run:
    """Plan and prepare the run of a single image.

    Raises:
        UsageError: A parameter is wrong, the mode does not sample, or there are several images.
    """
    return require_one(plan(mode, model, **parameters)).prepare(model)


def require_one(planned: AnyPlan) -> Plan:
    """Return a plan that samples one image, as it is.

    Raises:
        UsageError: It does not sample, or has several images.
    """
    if not isinstance(planned, Plan):
        hint = "record txt2img with latents=inversion.latents and **inversion.settings"
        raise UsageError("an inversion does not sample an image", code=CODE, hint=hint)
    n = len(planned.job.seeds)
    if n != 1:
        message = f"a record holds one image, not {n}"
        raise UsageError(message, code=CODE, hint="give one seed and one prompt, and count 1")
    return planned


def record_trajectory(
    run: Run,
    trajectory: Trajectory,
    before: Recording | None,
    attention: bool,
    callback: Callback | None,
    cancel: CancelFlag | None,
) -> RunRecord:
    """Take the steps of a trajectory to its end and return the record.

    Args:
        run: The run of the image.
        trajectory: Its trajectory.
        before: What was recorded of earlier steps, of which the trajectory is a continuation.
        attention: Whether to record attention.
        callback, cancel: As in `record_run`.
    """
    words = words_of(run) if attention else []
    recording = Recording(trajectory, words, before)
    for progress in explain_memory(recording.sample(cancel), run.model, run.job):
        notify(callback, progress)
    [image] = run.decode(recording.latents)
    return recording.finish(run, image)


def words_of(run: Run) -> list[PromptWord]:
    """Return the words of the prompt; none without cross-attention to a single text."""
    config = run.model.config
    single = run.initial.interpolation is None and not run.job.embeddings
    if config.unet.attention != "cross" or config.text_encoder.model_type == "class" or not single:
        return []
    return find_words(run.model.tokenizer, run.job.prompts[0], run.job.prompt_options)


class Recording:
    """The arrays of a run on the host, while it is recorded.

    Args:
        trajectory: The trajectory.
        words: The words to record attention of; none: no attention.
        before: What was recorded of earlier steps.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        words: Sequence[PromptWord] = (),
        before: Recording | None = None,
    ):
        self.trajectory = trajectory
        self.words = words
        self.latents = np.zeros(0, np.float32)
        self.x = [self._to_host(trajectory.x)]
        self.sigmas = [float(trajectory.schedule.sigmas[trajectory.visits[0]])]
        self.timesteps: list[float] = []
        self.steps: list[dict[str, np.ndarray]] = []  # predictions by name
        self.maps: list[np.ndarray] = []
        self.layers: list[dict[str, Any]] = []
        if before is not None:
            self.x = [*before.x]
            self.sigmas = [*before.sigmas]
            self.timesteps = [*before.timesteps]
            self.steps = [*before.steps]
        self._watch: AttentionBackend | None = None
        self._watched: LatentDiffusion | None = None
        if words:
            self._watch = AttentionBackend(trajectory.model)
            self._watched = trajectory.model.with_backend(self._watch)
        self._first = True  # the next evaluation is the first of its step

    def sample(self, cancel: CancelFlag | None) -> Iterator[Progress]:
        """Take all steps; `latents` are then the final ones."""
        compiled = self.trajectory.model.backend.compiles
        watched = None if compiled else self._watched
        self._begin_step()
        events = self.trajectory.sample(cancel, watched=watched, observe=self._observe)
        while True:
            try:
                progress = next(events)
            except StopIteration as end:
                self.latents = end.value
                return
            self.x.append(progress.latents[0])
            self.sigmas.append(progress.sigma)
            self._begin_step()
            yield progress

    def _begin_step(self) -> None:
        self._first = True
        if self._watch is not None:
            self._watch.watching = True

    def _observe(self, evaluation: Evaluation) -> None:
        """Keep the first evaluation of each step."""
        if not self._first:
            return
        self._first = False
        guided = {"x0": self._to_host(evaluation.x0)}
        kept = {n: self._to_host(y) for n, y in evaluation.predictions.items() if n in RECORDED}
        self.steps.append(kept | guided)
        schedule = self.trajectory.schedule
        self.timesteps.append(schedule.timestep(evaluation.sigma, evaluation.interval))
        if self._watch is not None:
            self._keep_maps(self._watch, evaluation)

    def _keep_maps(self, watch: AttentionBackend, evaluation: Evaluation) -> None:
        if self.trajectory.model.backend.compiles:
            again = self.trajectory.denoiser(self._watched)
            again.guided(evaluation.x, evaluation.sigma, interval=evaluation.interval)
        watch.watching = False
        calls = watch.take()
        names = [*evaluation.predictions]
        if "cond" not in names or not calls:
            return
        size = evaluation.x.shape[2], evaluation.x.shape[3]
        found = average_maps(watch.inner, calls, names.index("cond"), self.words, size)
        self.maps.append(found.maps.astype(np.float16))
        self.layers = found.layers

    def _to_host(self, x: Array) -> np.ndarray:
        return np.array(self.trajectory.model.backend.to_numpy(x), np.float32)[0]

    def finish(self, run: Run, image: Any) -> RunRecord:
        """Return the record of a finished run."""
        n = len(self.steps)
        sigmas = np.asarray(self.sigmas, np.float64)
        maps = np.stack(self.maps) if len(self.maps) == n else None
        meta = self._describe(run, sigmas, with_maps=maps is not None)
        return RunRecord(
            np.stack(self.x),
            np.stack([step["x0"] for step in self.steps]),
            self._stack("uncond"),
            self._stack("cond"),
            sigmas,
            maps,
            image,
            preview_matrix(run.model),
            np.array(training_alphas_cumprod(run.model.config.scheduler)),
            meta,
            collect_inputs(run.plan),
        )

    def _stack(self, name: str) -> np.ndarray | None:
        """Return a prediction of all steps, NaN where it was not computed; None without any."""
        if not any(name in step for step in self.steps):
            return None
        nothing = np.full_like(self.x[0], np.nan)
        return np.stack([step.get(name, nothing) for step in self.steps])

    def _describe(self, run: Run, sigmas: np.ndarray, with_maps: bool) -> dict[str, Any]:
        job = run.job
        params = run.params_of(0)
        words = [{"text": w.text, "tokens": list(w.tokens)} for w in self.words]
        attention = {
            "layers": [layer["name"] for layer in self.layers],
            "heads": [layer["heads"] for layer in self.layers],
            "sizes": [layer["size"] for layer in self.layers],
            "average": AVERAGE,
        }
        return {
            "format": FORMAT,
            "version": __version__,
            "mode": job.mode,
            "params": params,
            "steps": len(self.steps),
            "sampler": job.sampler.name,
            "schedule": job.schedule,
            "cfg_scale": job.cfg_scale,
            "seed": job.seeds[0],
            "timesteps": self.timesteps,
            "alpha_bar": [1.0 / (1.0 + sigma**2) for sigma in sigmas],
            "snr": [None if sigma == 0.0 else float(sigma**-2.0) for sigma in sigmas],
            "words": words if with_maps else [],
            "attention": attention if with_maps else None,
            "branch": None,
            "model": params["model"],
            "warnings": list(run.warnings),
        }


def collect_inputs(planned: Plan) -> dict[str, Any]:
    """Return the images and arrays that a run was given, which its parameters do not hold."""
    inputs: dict[str, Any] = {}
    for name in SOURCES:
        value: Any = getattr(planned.request, name, None)
        if hasattr(value, "read"):  # an open file, which was read before
            value.seek(0)
        if value is not None:
            inputs[name] = open_image(value)
    arrays = {"latents": planned.job.latents} | dict(planned.job.embeddings or {})
    names = ("latents", *EMBEDDINGS)
    return inputs | {name: arrays[name] for name in names if arrays.get(name) is not None}
