"""The works behind the explorer and the grids: thin adapters of `ldmref.explore`.

| kind     | fields of the request                              | result                         |
|----------|----------------------------------------------------|--------------------------------|
| `record` | `mode`, `model`, `parameters`                      | file `record.safetensors`      |
| `decode` | `model`, `latents` (base64 of a .npy file)         | files `0.png`, `1.png`, ...    |

A run that is a branch is given by its trunk instead of a mode: `trunk` (the fields of a run, which
may be a branch itself), `step` and `changes`.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref import explore
from ldmref.errors import Cancelled, UsageError
from ldmref.explore.record import require_one
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import Progress, decode_images
from ldmref.server.bodies import check_keys, read_mode
from ldmref.server.engine import Engine
from ldmref.server.inputs import plan_request, read_array, read_values
from ldmref.server.kinds import register
from ldmref.server.work import Report

RUN_KEYS = ("kind", "mode", "model", "parameters")
RECORD_FILE = "record.safetensors"
MAX_DECODED = 16  # latents of one request


@dataclass(frozen=True)
class RunSource:
    """A run from noise on: the mode, and its parameters as `record_run` takes them."""

    mode: str
    parameters: Mapping[str, Any] = field(repr=False)
    request: Mapping[str, Any] = field(repr=False)

    def record(
        self, model: LatentDiffusion, report: Report, cancel: threading.Event, attention: bool
    ) -> explore.RunRecord:
        """Record the run."""
        return explore.record_run(
            model,
            self.mode,
            attention=attention,
            callback=lambda progress: report_progress(report, progress),
            cancel=cancel,
            **self.parameters,
        )


def read_run(engine: Engine, body: Mapping[str, Any]) -> RunSource:
    """Return the run that a body names; everything is checked.

    Raises:
        LdmrefError: A value is wrong; the error says which.
    """
    mode, values = read_mode(body)
    plan = require_one(plan_request(engine, mode, values, body.get("model")))
    read = read_values(mode, values, engine.settings.max_pixels)
    # A random seed is chosen once, so the request says which.
    return RunSource(mode, {**read, "seed": plan.job.seeds[0]}, plan.params)


@dataclass(frozen=True)
class RecordWork:
    """The record of a run, and its image."""

    source: RunSource
    kind: str = "record"
    previews: bool = False

    @property
    def request(self) -> Mapping[str, Any]:
        """The resolved parameters."""
        return self.source.request

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Record the run."""
        record = self.source.record(model, report, cancel, attention=True)
        report.image(0, record.image, record.params, record.x[-1])
        report.file(RECORD_FILE, "application/octet-stream", record.to_bytes())
        for line in record.meta["warnings"]:
            report.warn(line)


@register("record")
def make_record(engine: Engine, body: Mapping[str, Any]) -> RecordWork:
    """Return the work of `{"mode": ..., "model": ..., "parameters": {...}}`."""
    check_keys(body, RUN_KEYS)
    return RecordWork(read_run(engine, body))


@dataclass(frozen=True)
class DecodeWork:
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
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            report.file(f"{i}.png", "image/png", buffer.getvalue())
            report.progress(i + 1, count)


@register("decode")
def make_decode(engine: Engine, body: Mapping[str, Any]) -> DecodeWork:
    """Return the work of `{"model": ..., "latents": base64 of a .npy file}`."""
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
    return DecodeWork(np.asarray(latents, np.float32))


def report_progress(report: Report, event: Progress) -> None:
    """Report a step of a run; images of the steps are in the record."""
    report.progress(event.step + 1, event.steps)
