"""Record a run: the image of a mode, byte for byte, and everything that led to it.

`Recording` observes the run and traces its states in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import UsageError
from ldmref.explore.attention import AVERAGE, AttentionBackend, average_maps
from ldmref.explore.format import CODE, RunRecord, pack_input
from ldmref.explore.preview import preview_matrix
from ldmref.explore.view import view_run
from ldmref.io.images.pil import open_image
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.text_kind import kind_of
from ldmref.modes.generate import (
    Callback,
    CancelFlag,
    GeneratedImage,
    Progress,
    check_callbacks,
    notify,
)
from ldmref.modes.observers import Observers
from ldmref.modes.plan import plan, require_images
from ldmref.modes.record import GIVEN_ARRAYS, SOURCES
from ldmref.modes.run import Plan, Run
from ldmref.modes.trajectory import SILENT, RunObserver, TakenStep, Trajectory
from ldmref.prompts.prompt_words import PromptWord, find_words
from ldmref.samplers.denoiser import Evaluation
from ldmref.samplers.interfaces import Interval
from ldmref.trace.memory import KeptCalls, MemoryStore
from ldmref.trace.observer import TraceObserver
from ldmref.trace.record_plan import describe_program, describe_run, require_recordable
from ldmref.trace.recorder import Recorder
from ldmref.trace.selection import Selection


def record_run(
    model: LatentDiffusion,
    mode: str = "txt2img",
    /,
    *,
    attention: bool = True,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    observer: RunObserver | None = None,
    **parameters: object,
) -> RunRecord:
    """Generate one image and record every state, prediction and attention map on the way.

    The image is that of the mode, byte for byte: the run is observed and not changed. The record
    is the part `Selection.states()` of a trace, with maps of attention. It takes about 16 n c h w
    bytes for n steps and latents (c, h, w), and 2 n h' w' bytes for each word: 1.4 MB with the
    embedded model, 60 MB with SDXL at 50 steps; 4 n c h w bytes more if the sampler draws noise or
    evaluates the network twice per step. Nothing else is kept between steps.

    Args:
        model: From `ldmref.load` or `ldmref.random_model`.
        mode: A mode that generates images: any except for `invert` and `edit`.
        attention: Whether to record a map of cross-attention for each word. On a backend that
            compiles networks this takes a second evaluation per step, which is not compiled.
        callback: Called after every step with a `Progress`. None: nothing is called.
        cancel: A `threading.Event`; once it is set, `Cancelled` is raised before the next step.
            None: the run cannot be cancelled.
        observer: Also sees the steps and the image. None: nobody does.
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
    planned = plan(mode, model, **parameters)
    return record_plan(
        model, planned, attention=attention, callback=callback, cancel=cancel, observer=observer
    )


def record_plan(
    model: LatentDiffusion,
    planned: Plan,
    *,
    attention: bool = True,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    observer: RunObserver | None = None,
) -> RunRecord:
    """Record the run of a plan, from `modes.plan`; otherwise as `record_run`."""
    check_callbacks(callback, cancel)
    run = prepare_plan(model, planned)
    return record_prepared(run, None, RunWatch(attention, callback, cancel, observer or SILENT))


def prepare_one(model: LatentDiffusion, mode: str, parameters: Mapping[str, Any]) -> Run:
    """Plan and prepare the run of a single image.

    Raises:
        UsageError: A parameter is wrong, or there are several images.
    """
    return prepare_plan(model, plan(mode, model, **parameters))


def prepare_plan(model: LatentDiffusion, planned: Plan) -> Run:
    """Prepare the run of a single image."""
    return require_one(planned).prepare(model)


def require_one(planned: Plan) -> Plan:
    """Return a plan if its run can be recorded and has one image.

    Raises:
        UsageError: There are several images, or two passes, or they are edits or noise.
    """
    require_recordable(planned)
    require_images(planned, "a record")
    n = len(planned.job.seeds)
    if n != 1:
        message = f"a record holds one image, not {n}"
        raise UsageError(message, code=CODE, hint="give one seed and one prompt, and count 1")
    return planned


class RunWatch(NamedTuple):
    """What is recorded of a run, and who else sees it; as in `record_run`."""

    attention: bool
    callback: Callback | None = None
    cancel: CancelFlag | None = None
    observer: RunObserver = SILENT


def record_prepared(
    run: Run,
    before: Recording | None,
    watch: RunWatch,
    branch: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> RunRecord:
    """Generate the image of a run, or of the rest of one, and return the record.

    Args:
        run: The run of the image.
        before: What was recorded of earlier steps, of which the run is a continuation.
        watch: What is recorded, and who else sees it.
        branch: The trunk, step and changes of a branch.
        warnings: Warnings in addition to those of the run.
    """
    recording = Recording(run, words_of(run) if watch.attention else [], before)
    images = []
    for event in recording.generate(watch.cancel, watch.observer):
        if isinstance(event, GeneratedImage):
            images.append(event.image)
        elif watch.callback is not None:
            notify(watch.callback, event)
    return recording.finish(images[0], branch, [*run.warnings, *warnings])


def words_of(run: Run) -> list[PromptWord]:
    """Return the words of the prompt, of each text encoder that the denoiser attends to.

    There are none without attention to a single text.
    """
    model = run.model
    single = run.initial.interpolation is None and not run.job.embeddings
    attention = model.denoiser.text_attention
    if attention is None or not single or kind_of(model.config.text_encoder).reads != "text":
        return []
    prompt = run.job.prompts[0]
    chunks = run.text.encoded[prompt].tokens.ids.shape[1]
    words: list[PromptWord] = []
    first = 0
    for number in attention.encoders:
        tokenizer = model.tokenizers[number]
        name = name_encoder(model.config, number)
        for word in find_words(tokenizer, prompt, run.job.prompt_options):
            words.append(PromptWord(word.text, tuple(first + t for t in word.tokens), name))
        first = first + chunks * tokenizer.kept
    return words


def name_encoder(config: ModelConfig, number: int) -> str:
    """Return the kind of a text encoder, such as T5; "" if the model has only one kind."""
    kinds = [kind_of(text).title for text in config.text_encoders]
    return kinds[number] if len({*kinds}) > 1 else ""


class Recording(TraceObserver):
    """Records a run of one image as the part of a trace that the explorer shows.

    Args:
        run: The run, or the rest of one.
        words: The words to record attention of; none: no attention.
        before: What was recorded of earlier steps.
    """

    def __init__(self, run: Run, words: Sequence[PromptWord] = (), before: Recording | None = None):
        self.calls = KeptCalls(None if before is None else before.calls)
        earlier = None if before is None else before.recorder
        super().__init__(Recorder(self.calls, MemoryStore, Selection.states(), earlier))
        self.run = run
        self.model = run.model
        self.job = run.job
        self.words = words
        self.states = [] if before is None else [*before.states]
        self.first = max(len(self.states) - 1, 0)  # number of earlier steps
        if before is not None:
            self._replace_words(before.words)
        self._watch: AttentionBackend | None = None
        self._watched: LatentDiffusion | None = None

    @property
    def done(self) -> int:
        """The number of steps so far."""
        return len(self.states) - 1

    def generate(
        self, cancel: CancelFlag | None, observer: RunObserver
    ) -> Iterator[Progress | GeneratedImage]:
        """Generate the image; the steps have numbers that follow those of earlier steps.

        Args:
            cancel: Stops the run between two steps.
            observer: Also sees the run, before it is recorded.
        """
        for event in self.run.generate(cancel, Observers(observer, self)):
            if isinstance(event, GeneratedImage):
                yield event
            else:
                step, steps = self.first + event.step, self.first + event.steps
                yield replace(event, step=step, steps=steps)

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Record the schedule and the first state; return the sampling whose attention is seen."""
        super().started(trajectory)
        if not self.states:
            self.states = [self._to_host(trajectory.x)]
        if not self.words:
            return trajectory
        self._watch = AttentionBackend(trajectory.model, self.words)
        self._watched = trajectory.model.with_backend(self._watch)
        if trajectory.model.backend.compiles:
            return trajectory
        return replace(trajectory, model=self._watched)

    def stepping(self, x: Array, interval: Interval) -> None:
        """Begin a step, of which the first evaluation is kept."""
        super().stepping(x, interval)
        if self._watch is not None:
            references = count_references(self.trajectory)
            self._watch.watch((x.shape[2], x.shape[3]), references)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Record the first evaluation of a step, with the maps of the words; count the others."""
        if self.evaluations:
            self.evaluations.append((evaluation, self.recorder.count_call("guidance")))
            return
        super().evaluated(evaluation)
        if self._watch is not None:
            self._record_maps(self._watch, evaluation)

    def stepped(self, step: TakenStep) -> Array:
        """Record the step, and keep the state after it."""
        x_next = super().stepped(step)
        self.states.append(self._to_host(x_next))
        return x_next

    def _record_maps(self, watch: AttentionBackend, evaluation: Evaluation) -> None:
        """Record the map of each word, unless the prompt had no part in the evaluation."""
        if self.trajectory.model.backend.compiles:
            assert self._watched is not None
            again = replace(self.trajectory, model=self._watched).denoiser()
            again.guided(evaluation.x, evaluation.sigma, interval=evaluation.interval)
        calls = watch.take([*evaluation.predictions])
        if not calls:
            return
        found = average_maps(calls, watch.size)
        attributes = {
            "words": describe_words(self.words),
            "layers": [layer["name"] for layer in found.layers],
            "heads": [layer["heads"] for layer in found.layers],
            "sizes": [layer["size"] for layer in found.layers],
            "average": AVERAGE,
            "tokens": [*watch.text.tokens] if watch.text else [],
        }
        with self.recorder.call("words", watch.inner, self.done) as call:
            if call is not None:
                maps = found.maps.astype(np.float16)[None]
                call.add("", "word_maps", {}, attributes, {"": maps})

    def _replace_words(self, before: Sequence[PromptWord]) -> None:
        """Give earlier maps the words of this prompt: 0 for those that the earlier one lacks."""
        rows = {word: i for i, word in enumerate(number_words(before))}
        order = [rows.get(word) for word in number_words(self.words)]
        described = describe_words(self.words)
        for i, entry in enumerate(self.calls.entries):
            if not entry.call.startswith("words."):
                continue
            name = entry.outputs["output"]
            maps = self.calls.tensors[name]
            nothing = np.zeros_like(maps[:, :1])
            rows_of = [nothing if row is None else maps[:, row : row + 1] for row in order]
            self.calls.tensors[name] = np.concatenate(rows_of or [maps[:, :0]], axis=1)
            attributes = {**entry.attributes, "words": described}
            self.calls.entries[i] = replace(entry, attributes=attributes)

    def _to_host(self, x: Array) -> np.ndarray:
        return np.array(self.model.backend.to_numpy(x), np.float32)[0]

    def finish(
        self, image: object, branch: Mapping[str, Any] | None, warnings: Sequence[str]
    ) -> RunRecord:
        """Return the record of a finished run.

        Args:
            image: The finished image.
            branch: The trunk, step and changes of a branch.
            warnings: Those of the run.
        """
        run = self.run
        self.calls.add("image", {}, {"": np.asarray(image)[None]})
        inputs = collect_inputs(run.plan)
        if inputs:
            packed = {name: pack_input(value) for name, value in inputs.items()}
            self.calls.add("inputs", packed, {})
        preview = preview_matrix(run.model)
        manifest = describe_program(run.model, self.recorder.selection) | describe_run(run)
        manifest |= {"params": run.params_of(0), "complete": True}
        manifest |= {"branch": branch, "warnings": list(warnings)}
        if preview is not None:
            matrix, bias = preview.matrix.tolist(), preview.bias.tolist()
            manifest["preview"] = {"matrix": matrix, "bias": bias}
        return view_run(self.calls.trace(manifest), "the run")


def count_references(trajectory: Trajectory) -> int:
    """Return the number of tokens of reference images that the denoiser reads."""
    denoiser = trajectory.model.denoiser
    return max(denoiser.count_references(x.more) for x in trajectory.conditionings.values())


def describe_words(words: Sequence[PromptWord]) -> list[dict[str, Any]]:
    """Return the words as a trace holds them: text, the numbers of their tokens, the encoder."""
    return [
        {"text": word.text, "tokens": list(word.tokens)}
        | ({"encoder": word.encoder} if word.encoder else {})
        for word in words
    ]


def number_words(words: Sequence[PromptWord]) -> list[tuple[str, str, int]]:
    """Return each word of an encoder with the number of times that it occurred before."""
    seen: list[tuple[str, str]] = []
    numbered = []
    for word in words:
        name = word.encoder, word.text.lower()
        numbered.append((*name, seen.count(name)))
        seen.append(name)
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
    return inputs | {name: arrays[name] for name in GIVEN_ARRAYS if arrays.get(name) is not None}
