"""The arrays of a run while it is recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.explore.attention import AVERAGE, AttentionBackend, average_maps
from ldmref.explore.format import FORMAT, RunRecord
from ldmref.explore.preview import preview_matrix
from ldmref.io.images.pil import open_image
from ldmref.math.arrays import Array
from ldmref.math.schedules import alpha_bar_from_sigma
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.embeddings import NAMES as EMBEDDINGS
from ldmref.modes.generate import CancelFlag, Progress
from ldmref.modes.observed import TakenStep
from ldmref.modes.record import SOURCES
from ldmref.modes.run import Plan, Run
from ldmref.modes.trajectory import RunObserver, Trajectory
from ldmref.prompts.prompt_words import PromptWord, find_words
from ldmref.samplers.denoiser import Evaluation
from ldmref.samplers.interfaces import Interval
from ldmref.samplers.own_spacing import name_of
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.version import __version__

RECORDED = ("uncond", "cond")  # predictions, in addition to the guided one


def words_of(run: Run) -> list[PromptWord]:
    """Return the words of the prompt; none without cross-attention to a single text."""
    config = run.model.config
    single = run.initial.interpolation is None and not run.job.embeddings
    denoiser = config.denoiser
    words = isinstance(denoiser, UNetConfig) and denoiser.attention == "cross"
    if not words or config.text_encoder.model_type == "class" or not single:
        return []
    return find_words(run.model.tokenizer, run.job.prompts[0], run.job.prompt_options)


class Recording(RunObserver):
    """Observes a run, and keeps its arrays on the host.

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
        # None for steps in which the conditional prediction was not evaluated
        self.maps: list[np.ndarray | None] = []
        self.layers: list[dict[str, Any]] = []
        if before is not None:
            self.x = [*before.x]
            self.sigmas = [*before.sigmas]
            self.timesteps = [*before.timesteps]
            self.steps = [*before.steps]
            self.maps = [before.maps_of(i, words) for i in range(len(before.maps))]
            self.layers = before.layers
        self._watch: AttentionBackend | None = None
        self._watched: LatentDiffusion | None = None
        if words:
            self._watch = AttentionBackend(trajectory.model)
            self._watched = trajectory.model.with_backend(self._watch)
        self._first = True  # the next evaluation is the first of its step

    def sample(self, cancel: CancelFlag | None) -> Iterator[Progress]:
        """Take all steps; `latents` are then the final ones."""
        trajectory = self.trajectory
        if self._watched is not None and not trajectory.model.backend.compiles:
            trajectory = replace(trajectory, model=self._watched)
        done = len(self.steps)
        events = trajectory.sample(cancel, observer=self)
        while True:
            try:
                progress = next(events)
            except StopIteration as end:
                self.latents = end.value
                return
            yield replace(progress, step=done + progress.step, steps=done + progress.steps)

    def stepping(self, x: Array, interval: Interval) -> None:
        """Begin a step, of which the first evaluation is kept."""
        self._first = True
        if self._watch is not None:
            self._watch.watching = True

    def evaluated(self, evaluation: Evaluation) -> None:
        """Keep the first evaluation of each step."""
        if not self._first:
            return
        self._first = False
        guided = {"x0": self._to_host(evaluation.x0)}
        kept = {n: self._to_host(y) for n, y in evaluation.predictions.items() if n in RECORDED}
        self.steps.append(kept | guided)
        schedule = self.trajectory.schedule
        self.timesteps.append(schedule.timestep(evaluation.sigma, evaluation.interval))
        self.maps.append(None if self._watch is None else self._find_maps(self._watch, evaluation))

    def stepped(self, step: TakenStep) -> Array:
        """Keep the state after a step."""
        self.x.append(self._to_host(step.x_next))
        self.sigmas.append(step.interval.sigma_next)
        return step.x_next

    def _find_maps(self, watch: AttentionBackend, evaluation: Evaluation) -> np.ndarray | None:
        """Return the map of each word in an evaluation; None if the prompt had no part in it."""
        if self.trajectory.model.backend.compiles:
            again = self.trajectory.denoiser(self._watched)
            again.guided(evaluation.x, evaluation.sigma, interval=evaluation.interval)
        watch.watching = False
        calls = watch.take()
        names = [*evaluation.predictions]
        if "cond" not in names or not calls:
            return None
        size = evaluation.x.shape[2], evaluation.x.shape[3]
        found = average_maps(watch.inner, calls, names.index("cond"), self.words, size)
        self.layers = found.layers
        return found.maps.astype(np.float16)

    def maps_of(self, i: int, words: Sequence[PromptWord]) -> np.ndarray | None:
        """Return the maps of step i for the words of another prompt: 0 for those it lacks."""
        maps = self.maps[i]
        if maps is None or not words:
            return None
        rows = dict(zip(number_words(self.words), maps, strict=True))
        return np.stack([rows.get(word, np.zeros_like(maps[0])) for word in number_words(words)])

    def _to_host(self, x: Array) -> np.ndarray:
        return np.array(self.trajectory.model.backend.to_numpy(x), np.float32)[0]

    def finish(self, run: Run, image: Any, more: Mapping[str, Any]) -> RunRecord:
        """Return the record of a finished run, with more entries of its description."""
        sigmas = np.asarray(self.sigmas, np.float64)
        maps = self._stack_maps()
        meta = self._describe(run, sigmas, with_maps=maps is not None)
        meta.update(more)
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

    def _stack_maps(self) -> np.ndarray | None:
        """Return the maps of all steps, 0 where the prompt had no part; None without any."""
        some = next((maps for maps in self.maps if maps is not None), None)
        if some is None:
            return None
        nothing = np.zeros_like(some)
        return np.stack([nothing if maps is None else maps for maps in self.maps])

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
            "schedule": name_of(job.schedule),
            "cfg_scale": job.cfg_scale,
            "seed": job.seeds[0],
            "timesteps": self.timesteps,
            "alpha_bar": [float(alpha_bar_from_sigma(sigma)) for sigma in sigmas],
            "snr": [None if sigma == 0.0 else float(sigma**-2.0) for sigma in sigmas],
            "words": words if with_maps else [],
            "attention": attention if with_maps else None,
            "model": params["model"],
        }


def number_words(words: Sequence[PromptWord]) -> list[tuple[str, int]]:
    """Return each word with the number of times that it occurred before."""
    seen: list[str] = []
    numbered = []
    for word in words:
        text = word.text.lower()
        numbered.append((text, seen.count(text)))
        seen.append(text)
    return numbered


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
