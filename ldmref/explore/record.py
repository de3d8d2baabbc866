"""Record a run: the image of a mode, byte for byte, and everything that led to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldmref.errors import UsageError
from ldmref.explore.format import CODE, RunRecord
from ldmref.explore.recording import Recording, words_of
from ldmref.models.model import LatentDiffusion
from ldmref.modes.callbacks import check_callbacks, notify
from ldmref.modes.generate import Callback, CancelFlag, GeneratedImage
from ldmref.modes.plan import plan, require_images
from ldmref.modes.run import Plan, Run
from ldmref.modes.trajectory import SILENT, RunObserver
from ldmref.trace.record_plan import require_recordable


def record_run(
    model: LatentDiffusion,
    mode: str = "txt2img",
    /,
    *,
    attention: bool = True,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    observer: RunObserver | None = None,
    **parameters: Any,
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
    return record_prepared(run, None, attention, callback, cancel, observer)


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


def record_prepared(
    run: Run,
    before: Recording | None,
    attention: bool,
    callback: Callback | None,
    cancel: CancelFlag | None,
    observer: RunObserver | None = None,
    branch: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> RunRecord:
    """Generate the image of a run, or of the rest of one, and return the record.

    Args:
        run: The run of the image.
        before: What was recorded of earlier steps, of which the run is a continuation.
        attention: Whether to record attention.
        callback, cancel: As in `record_run`.
        observer: Also sees the steps and the image.
        branch: The trunk, step and changes of a branch.
        warnings: Warnings in addition to those of the run.
    """
    recording = Recording(run, words_of(run) if attention else [], before)
    images = []
    for event in recording.generate(cancel, observer or SILENT):
        if isinstance(event, GeneratedImage):
            images.append(event.image)
        elif callback is not None:
            notify(callback, event)
    return recording.finish(images[0], branch, [*run.warnings, *warnings])
