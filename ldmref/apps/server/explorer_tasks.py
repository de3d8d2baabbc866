"""The tasks behind the explorer: thin adapters of `ldmref.explore`.

| kind     | fields of the request                              | result                         |
|----------|----------------------------------------------------|--------------------------------|
| `record` | `mode`, `model`, `parameters`                      | file `record.safetensors`      |
| `branch` | `model`, `trunk`, `step`, `changes`                | file `record.safetensors`      |
| `truth`  | those of `record` or of `branch`                   | the same with the truth line   |
| `noised` | `mode`, `model`, `parameters`                      | file `noised.png`, its factors |
| `decode` | `model`, `latents` (base64 of a .npy file)         | files `0.png`, `1.png`, ...    |

A `trunk` has `mode` and `parameters`, or `trunk`, `step` and `changes` if it is a branch itself.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref import explore
from ldmref.apps.server.arrays import read_array
from ldmref.apps.server.bodies import check_keys, read_mode, require_object
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.inputs import plan_request, read_values
from ldmref.apps.server.task_kinds import register
from ldmref.apps.server.tasks import Report, report_step
from ldmref.errors import Cancelled, UsageError, did_you_mean, short_repr
from ldmref.explore.branching import CHANGEABLE
from ldmref.explore.flow import FlowProgress
from ldmref.explore.format import CODE
from ldmref.explore.noised import check_start
from ldmref.explore.record import require_one
from ldmref.io.images.metadata import encode_png
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import Progress, decode_images
from ldmref.modes.observers import PreviewObserver

RUN_KEYS = ("kind", "mode", "model", "parameters")
BRANCH_KEYS = ("kind", "model", "trunk", "step", "changes")
RECORD_FILE = "record.safetensors"
MAX_DECODED = 16  # latents of one request


@dataclass(frozen=True)
class RunSource:
    """A run that a request names: a mode with its parameters, or a branch.

    Args:
        recipe: What `explore.branch_run` takes as a trunk: `mode` and parameters, or `trunk`,
            `step` and `changes`.
        request: The same as JSON, with all defaults.
    """

    recipe: Mapping[str, Any] = field(repr=False)
    request: Mapping[str, Any] = field(repr=False)

    def record(
        self, model: LatentDiffusion, report: Report, cancel: threading.Event, attention: bool
    ) -> explore.RunRecord:
        """Record the run."""
        preview = PreviewObserver()

        def callback(event: Progress) -> None:
            report_step(report, event, preview)

        options: Any = {"attention": attention, "callback": callback, "cancel": cancel}
        options["observer"] = preview
        recipe = dict(self.recipe)
        if "trunk" in recipe:
            trunk, step, changes = (recipe[key] for key in ("trunk", "step", "changes"))
            return explore.branch_run(model, trunk, step, **options, **changes)
        return explore.record_run(model, recipe.pop("mode"), **options, **recipe)


def read_run(engine: Engine, body: Mapping[str, Any], model: str | None) -> RunSource:
    """Return the run that a body names; everything is checked that needs no weights.

    Raises:
        LdmrefError: A value is wrong; the error says which.
    """
    if "trunk" in body:
        return read_branch(engine, body, model)
    mode, values = read_mode(body)
    plan = require_one(plan_request(engine, mode, values, model))
    read = read_values(mode, values, engine.settings.max_pixels, engine.served)
    # A random seed is chosen once, so the request says which.
    seed = {"seed": plan.job.seeds[0]}
    return RunSource({"mode": mode, **read, **seed}, plan.params)


def read_branch(engine: Engine, body: Mapping[str, Any], model: str | None) -> RunSource:
    """Return the branch that a body names."""
    trunk_body = require_object(body["trunk"])
    check_keys(trunk_body, ("mode", "model", "parameters", "trunk", "step", "changes"))
    trunk = read_run(engine, trunk_body, model)
    step = body.get("step")
    changes = require_object(body.get("changes", {}))
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise UsageError(f"step must be a whole number, not {short_repr(step)}", code=CODE)
    for name in changes:
        if name not in CHANGEABLE:
            hint = did_you_mean(name, CHANGEABLE)
            raise UsageError(f"a branch cannot change {name!r}", code=CODE, hint=hint)
    branch = {"step": step, "changes": changes}
    return RunSource({"trunk": trunk.recipe, **branch}, {"trunk": trunk.request, **branch})


@dataclass(frozen=True)
class RunTask:
    """A task on a run or a branch."""

    source: RunSource
    kind: str
    previews: bool = False

    @property
    def request(self) -> Mapping[str, Any]:
        """The resolved parameters."""
        return self.source.request


@dataclass(frozen=True)
class RecordTask(RunTask):
    """The record of a run or of a branch, and its image."""

    previews: bool = True

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Record the run."""
        record = self.source.record(model, report, cancel, attention=True)
        report.image(0, record.image, record.params, record.x[-1])
        report.file(RECORD_FILE, "application/octet-stream", record.to_bytes())
        for line in record.meta["warnings"]:
            report.warn(line)


@register("record")
def make_record(engine: Engine, body: Mapping[str, Any]) -> RecordTask:
    """Return the task of `{"mode": ..., "model": ..., "parameters": {...}}`."""
    check_keys(body, RUN_KEYS)
    return RecordTask(read_run(engine, body, body.get("model")), "record")


@register("branch")
def make_branch(engine: Engine, body: Mapping[str, Any]) -> RecordTask:
    """Return the task of `{"trunk": {...}, "step": k, "changes": {...}, "model": ...}`."""
    check_keys(body, BRANCH_KEYS)
    require_object(body.get("trunk"))
    return RecordTask(read_run(engine, body, body.get("model")), "branch")


class TruthTask(RunTask):
    """The record of a run with its truth line, which is also the data of the job."""

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Record the run, then solve it to convergence."""
        record = self.source.record(model, report, cancel, attention=True)

        def callback(event: FlowProgress) -> None:
            report.progress(event.step, event.steps)

        truth = explore.truth_line(model, record, callback=callback, cancel=cancel)
        with_truth = record.with_truth(truth)
        report.file(RECORD_FILE, "application/octet-stream", with_truth.to_bytes())
        distances = {
            "distance": truth.distance.tolist(),
            "local_error": truth.local_error.tolist(),
        }
        report.data(distances | {"truth": truth.description})


@register("truth")
def make_truth(engine: Engine, body: Mapping[str, Any]) -> TruthTask:
    """Return the task of the fields of a record or of a branch."""
    check_keys(body, BRANCH_KEYS if "trunk" in body else RUN_KEYS)
    return TruthTask(read_run(engine, body, body.get("model")), "truth")


class NoisedTask(RunTask):
    """What remains of the image that a run starts from; the factors are the data of the job."""

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Encode, noise and decode the image."""
        recipe = dict(self.source.recipe)
        start = explore.noised_image(model, recipe.pop("mode"), **recipe)
        report.file("noised.png", "image/png", encode_png(start.image))
        names = ("share", "noise", "taken", "steps")
        report.data({name: getattr(start, name) for name in names})


@register("noised")
def make_noised(engine: Engine, body: Mapping[str, Any]) -> NoisedTask:
    """Return the task of `{"mode": ..., "model": ..., "parameters": {...}}`."""
    check_keys(body, RUN_KEYS)
    check_start(read_mode(body)[0])
    return NoisedTask(read_run(engine, body, body.get("model")), "noised")


@dataclass(frozen=True)
class DecodeTask:
    """The images of latents (n, c, h, w)."""

    latents: np.ndarray = field(repr=False)
    kind: str = "decode"
    previews: bool = False

    @property
    def request(self) -> Mapping[str, Any]:
        """The shape of the latents."""
        return {"shape": list(self.latents.shape)}

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Decode the latents one by one."""
        count = len(self.latents)
        for i in range(count):
            if cancel.is_set():
                raise Cancelled("stopped between two images", code="E-CANCELLED")
            [image] = decode_images(model, self.latents[i : i + 1])
            report.file(f"{i}.png", "image/png", encode_png(image))
            report.progress(i + 1, count)


@register("decode")
def make_decode(engine: Engine, body: Mapping[str, Any]) -> DecodeTask:
    """Return the task of `{"model": ..., "latents": base64 of a .npy file}`."""
    check_keys(body, ("kind", "model", "latents"))
    config = engine.models[engine.find_model(body.get("model"))].config
    latents = read_array("latents", body.get("latents"))
    channels = config.vae.latent_channels
    shape = latents.shape
    if len(shape) != 4 or shape[1] != channels or 0 in shape or shape[0] > MAX_DECODED:
        raise UsageError(
            f"latents must have the shape (1 to {MAX_DECODED}, {channels}, h, w), not {shape}",
            code="E-LATENTS",
        )
    pixels = shape[0] * shape[2] * shape[3] * config.vae.factor**2
    if pixels > engine.settings.max_pixels:
        raise UsageError(
            f"the images would have {pixels} pixels, the limit is {engine.settings.max_pixels}",
            code="E-LATENTS",
            hint="send fewer at a time",
        )
    if not np.isfinite(latents).all():
        raise UsageError("latents hold NaN or infinity", code="E-LATENTS")
    return DecodeTask(np.asarray(latents, np.float32))
