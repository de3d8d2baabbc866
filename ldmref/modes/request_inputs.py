"""The images and arrays of a request, which the record of its parameters leaves out.

With them, `recorded_request` makes the plan of a recorded run again, without the files from which
the images were read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldmref.declare import get_fields
from ldmref.errors import counted
from ldmref.io.images.pil import read_image
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.modes.control import Control
from ldmref.modes.job import Job
from ldmref.modes.record import CONTROL_IMAGE, GIVEN_ARRAYS, REFERENCES, upgrade_record
from ldmref.modes.registry import MODES
from ldmref.modes.requests import Request

CONTROL = "control"
GUIDE = "guide"
NUMBERS = ("weight", "start", "end", "mode")  # that a control records


def record_inputs(job: Job, request: Request) -> dict[str, np.ndarray]:
    """Return the images and arrays of a request by parameter; those of lists as `references.0`.

    Args:
        job: The resolved parameters.
        request: The request of the plan, whose images were read.

    Returns:
        Images as uint8 (h, w, 3), masks (h, w), maps of classes int64 (h, w); noise and embeddings
        as they were given. Networks are left out.

    >>> import numpy as np
    >>> import ldmref
    >>> photo = np.zeros((16, 16, 3), np.uint8)
    >>> model = ldmref.random_model("tiny")
    >>> plan = ldmref.modes.plan("img2img", model, prompt="a cat", image=photo)
    >>> {name: x.shape for name, x in record_inputs(plan.job, plan.request).items()}
    {'image': (16, 16, 3)}
    """
    found: dict[str, Any] = {}
    for name, field in get_fields(type(request)).items():
        value = getattr(request, name)
        if value is None:
            continue
        if name == CONTROL_IMAGE:
            value = None if job.control_input is None else job.control_input.source
        if field.attachment in ("image", "array"):
            found[name] = value
        elif field.attachment == "images":
            images = [reference.image for reference in job.reference_inputs]
            found |= {f"{name}.{i}": image for i, image in enumerate(images)}
        elif field.attachment == "controlnet":
            controls = enumerate(getattr(request, CONTROL))
            sources = {f"{name}.{i}": control.image for i, control in controls}
            found |= {role: read_image(x) for role, x in sources.items() if x is not None}
    return {name: np.asarray(x) for name, x in found.items() if x is not None}


def recorded_request(
    record: Mapping[str, Any],
    inputs: Mapping[str, np.ndarray],
    nets: Sequence[ControlNet] = (),
    guide: LatentDiffusion | None = None,
) -> tuple[str, dict[str, Any]] | str:
    """Return the mode and the parameters of a recorded run, or in words what is missing.

    Args:
        record: The recorded parameters, of all images of the run.
        inputs: From `record_inputs`.
        nets: The ControlNets of the run, in their order.
        guide: The weaker model of autoguidance. None: there is none.
    """
    seeds = record.get("seed")
    if "seed_b" in record and isinstance(seeds, list):  # all are that of the first end
        record = {**record, "seed": seeds[0]}
    record = upgrade_record(record)
    mode = record.get("mode")
    if mode not in MODES:
        return "its mode was not recorded"
    takes = MODES[mode].parameters
    values = {name: record[name] for name in takes if name in record}
    for name in (*GIVEN_ARRAYS, CONTROL_IMAGE, REFERENCES, CONTROL, GUIDE):
        values.pop(name, None)
    needed = [name for name in (*GIVEN_ARRAYS, CONTROL_IMAGE) if name in record]
    needed += [name for name, field in takes.items() if field.required and field.attachment]
    needed += [f"{REFERENCES}.{i}" for i in range(len(record.get(REFERENCES, ())))]
    missing = [name for name in needed if name not in inputs]
    if missing:
        return f"the {missing[0].replace('_', ' ')} of the request was not recorded"
    values |= {name: x for name, x in inputs.items() if name in takes}
    references = [x for name, x in inputs.items() if name.startswith(f"{REFERENCES}.")]
    if references:
        values[REFERENCES] = references
    controls = record.get(CONTROL, [])
    if len(controls) != len(nets):
        return f"the run had {counted(len(controls), 'ControlNet')}, and {len(nets)} were given"
    if controls:
        pairs = enumerate(zip(controls, nets, strict=True))
        values[CONTROL] = [_read_control(row, net, inputs, i) for i, (row, net) in pairs]
    if GUIDE in record:
        if guide is None:
            return "no weaker model was given"
        values[GUIDE] = guide
    return mode, values


def _read_control(
    row: Mapping[str, Any], net: ControlNet, inputs: Mapping[str, np.ndarray], i: int
) -> Control:
    numbers = {name: row[name] for name in NUMBERS if name in row}
    return Control(net, inputs.get(f"{CONTROL}.{i}"), **numbers)
