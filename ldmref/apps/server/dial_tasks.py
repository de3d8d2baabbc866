"""The task behind the dial of evaluations: a thin adapter of `ldmref.explore.dial`.

A request has `model`, which the server has a flow map of, and `parameters` of `txt2img`. Images
arrive one by one, those of the map first. The data of the job hold `stops`: evaluations, whether
the map made the image, its index, and the distance of its latents from the converged run of the
model, null until that is known; and `truth`, what is known about that run.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref import explore
from ldmref.apps.server.bodies import check_keys, read_mode
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.inputs import check_count, read_values
from ldmref.apps.server.task_kinds import register
from ldmref.apps.server.tasks import Report
from ldmref.errors import UsageError
from ldmref.explore.converged import ConvergedImage
from ldmref.explore.dial import MODE, DialStop, plan_dial
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import GeneratedImage

# of the converged run: its error is then a fifth of the distance of 40 evaluations
TOLERANCE = 0.01


@dataclass(frozen=True)
class DialTask:
    """The images of the dial, and their distances from the truth."""

    stops: Sequence[DialStop] = field(repr=False)
    flow_map: LatentDiffusion = field(repr=False)
    parameters: Mapping[str, Any] = field(repr=False)
    request: Mapping[str, Any] = field(repr=False)
    kind: str = "dial"
    previews: bool = False

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Generate the images, then solve the run to convergence."""
        latents = []
        for index, stop in enumerate(self.stops):
            run = stop.plan.prepare(self.flow_map if stop.by_map else model)
            [made] = [event for event in run.generate(cancel) if isinstance(event, GeneratedImage)]
            latents.append(made.latents)
            report.data({"stops": self.describe(len(latents))})
            report.image(index, made.image, run.params_of(0), made.latents)
            report.progress(index + 1, len(self.stops) + 1)
        asked = {name: value for name, value in self.parameters.items() if name != "count"}
        truth = explore.converged_image(model, MODE, asked, tolerance=TOLERANCE, cancel=cancel)
        report.data({"stops": self.describe(len(latents), truth, latents)})
        report.data({"truth": {"change": truth.change, "evaluations": truth.evaluations}})

    def describe(
        self,
        count: int,
        truth: ConvergedImage | None = None,
        latents: Sequence[np.ndarray] = (),
    ) -> list[dict[str, Any]]:
        """Return the first places as JSON, with their distances once the truth is known."""
        return [
            {
                "evaluations": stop.evaluations,
                "by_map": stop.by_map,
                "steps": stop.plan.job.steps,
                "distance": truth.distance(latents[index]) if truth else None,
            }
            for index, stop in enumerate(self.stops[:count])
        ]


@register("dial")
def make_dial(engine: Engine, body: Mapping[str, Any]) -> DialTask:
    """Return the task of `{"model": ..., "parameters": {...}}`."""
    check_keys(body, ("kind", "mode", "model", "parameters"))
    mode, values = read_mode(body)
    if mode != MODE:
        message = f"the dial takes the mode {MODE!r}"
        raise UsageError(message, code="E-MODE", hint=f'"mode": "{MODE}"')
    name = engine.find_model(body.get("model"))
    found = engine.served.find_flow_map(name)
    if found in (None, name):
        message = f"the server has no flow map of the model {name!r}"
        raise UsageError(message, code="E-MODEL", hint="ldmref serve -m MODEL -m MAP")
    model, flow_map = engine.models[name], engine.models[found]
    with engine.planning:
        parameters = read_values(mode, values, engine.settings.max_pixels, engine.served)
        stops = plan_dial(model, flow_map.config, parameters)
    check_count(engine, len(stops))
    seed = {"seed": stops[-1].plan.job.seeds[0]}
    return DialTask(stops, flow_map, dict(parameters) | seed, stops[-1].plan.params | seed)
