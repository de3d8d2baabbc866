"""The computations of the host, each recomputed from its recorded state.

| module      | what is judged                                                        |
|-------------|-----------------------------------------------------------------------|
| `tokens`    | token ids of the prompts                                              |
| `inputs`    | what the U-Net is given: latents, timestep, text, micro-conditioning  |
| `schedule`  | sigmas, timesteps and alphas_cumprod; noise added to an image         |
| `guidance`  | the combination of predictions                                        |
| `wires`     | what one call returned, against what the next one was given           |
| `steps`     | the sampler's steps, with the history of recorded earlier steps       |
| `latents`   | the scale of the initial noise, and of the latents before the decoder |
| `training`  | a training step: noising, target and losses                           |
| `gradients` | the gradients of a training step: the norm of each layer's            |
| `branches`  | splits a recorded branch into parts with one request each             |
"""

from __future__ import annotations

from dataclasses import replace

from ldmref.locate.findings import Row
from ldmref.locate.host.branches import split_branches
from ldmref.locate.host.combination import judge_guidance
from ldmref.locate.host.context import HostContext
from ldmref.locate.host.gradients import judge_gradients
from ldmref.locate.host.inputs import judge_inputs
from ldmref.locate.host.latents import judge_latents
from ldmref.locate.host.schedule import judge_added_noise, judge_schedule
from ldmref.locate.host.steps import judge_steps
from ldmref.locate.host.tokens import judge_tokens
from ldmref.locate.host.training import judge_training
from ldmref.locate.host.wires import judge_wires
from ldmref.models.model import LatentDiffusion
from ldmref.trace.model import Trace

JUDGES = (
    judge_tokens,
    judge_schedule,
    judge_added_noise,
    judge_inputs,
    judge_guidance,
    judge_wires,
    judge_steps,
    judge_latents,
    judge_training,
    judge_gradients,
)


def judge_host(port: Trace, model: LatentDiffusion, dtype: str, notes: list[str]) -> list[Row]:
    """Return the rows of all computations of the host that were recorded."""
    parts = split_branches(port)
    context = HostContext(parts.trunk, model, dtype, notes)
    of_parts = {judge_guidance: parts.requests, judge_steps: parts.samplings}
    rows = []
    for judge in JUDGES:
        for part in of_parts.get(judge, (parts.trunk,)):
            rows += judge(context if part is parts.trunk else replace(context, port=part))
    return rows
