"""Small networks of diffusers whose source is changed at run time, and what diffs say of them.

A family enters by the name of a small model and the size of its images; a fault by the method that
is changed, a text of it, and what replaces this text.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy_ports import make_model

import ldmref
from ldmref.locate import diff_traces
from ldmref.locate.report import DiffReport
from ldmref.passport.pipelines import make_pipeline
from ldmref.ports.pipeline_folder import parts_of
from ldmref.trace import build_trace

SIZE = {"width": 24, "height": 16}
LONGER = "red heart red heart red heart"
TOKENS = {"krea-2-tiny": 160}  # of a text, those of a template among them
BY_PIPELINE = ("qwen-image-2.1-tiny",)  # whose layers are read as ours in a pipeline alone
PACKAGES = {"transformer": "diffusers.models.transformers", "modeling": "transformers.models.qwen3"}


class Fault(NamedTuple):
    """A fault of a network of diffusers.

    Attributes:
        family: The small model, "flux-tiny"; "z-image-tiny/text_encoder" for another network of
            it than its denoiser.
        place: The method that is changed: "attention.JointTransformerBlock.forward" of a module of
            `diffusers.models`; that of its transformers has the name "transformer_flux", and one of
            Qwen3 in transformers "modeling_qwen3". A function of a module has no class.
        changes: Texts of its source, and what replaces them.
        layers: The ends of the names of the layers that differ, without numbers.
        words: How every cause begins.
    """

    family: str
    place: str
    changes: tuple[tuple[str, str], ...]
    layers: tuple[str, ...]
    words: str


@contextmanager
def changed(fault: Fault) -> Iterator[None]:
    """Put a fault into diffusers' source for a while."""
    module_name, *classes, method = fault.place.split(".")
    package = PACKAGES.get(module_name.partition("_")[0], "diffusers.models")
    module = importlib.import_module(f"{package}.{module_name}")
    owner = getattr(module, classes[0]) if classes else module
    code = textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(owner, method))))
    code = code[code.index(f"def {method}") :]
    for right, wrong in fault.changes:
        assert right in code, (fault.place, right)
        code = code.replace(right, wrong)
    found: dict[str, Any] = {}
    exec(code, vars(module), found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, found[method])
        yield


class Recordable(NamedTuple):
    """A network that can be recorded.

    Attributes:
        model: Its model.
        recorded: The module, or the pipeline that calls it.
        run: Runs what is recorded.
        call: The name of the network's call in a recording of its pipeline.
        inputs: The inputs of the whole call, by their names in such a recording.
    """

    model: Any
    recorded: Any
    run: Callable[[], Any]
    call: str
    inputs: dict[str, np.ndarray]


@functools.cache
def network_of(family: str) -> Recordable:
    """Return a network of a small model, with what its pipeline gives it."""
    family, _, part = family.partition("/")
    model = make_model(family)
    pipe = make_pipeline(model, {"sampler": "euler", "cfg_scale": 1.0})
    name = part or model.config.denoiser.network
    network = getattr(pipe, name)
    call = name if part else f"{name}.000"
    parts = parts_of(model.config)
    prompts = {"prompt": LONGER if parts.alone else ["red", LONGER]}
    more = parts.request(model.config, {**prompts, "cfg_scale": 1.0, "steps": 2})
    request = {**prompts, "num_inference_steps": 2, **SIZE}
    request |= {key: x for key, x in more.items() if x is not None}
    if "max_sequence_length" in inspect.signature(pipe.__call__).parameters:
        request["max_sequence_length"] = TOKENS.get(family, 64)
    seen: list[Any] = []

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        seen.append((args, kwargs))

    def run_pipeline() -> None:
        pipe(generator=torch.Generator().manual_seed(5), **request)

    handle = network.register_forward_pre_hook(keep, with_kwargs=True)
    with ldmref.recording(pipe) as run, torch.inference_mode():
        run_pipeline()
    handle.remove()
    tensors = run.trace.tensors
    inputs = {name: x for name, x in tensors.items() if name.startswith(f"{call}//input")}
    if family in BY_PIPELINE:
        return Recordable(model, pipe, run_pipeline, call, inputs)
    args, kwargs = seen[0]
    return Recordable(model, network, lambda: network(*args, **kwargs), call, inputs)


def judge(family: str, fault: Fault | None = None, recorded: str = ".*") -> DiffReport:
    """Return the report on a network with a fault, of which some arrays are recorded.

    Args:
        family: The small model.
        fault: The fault. None: there is none.
        recorded: Of the layers' arrays, those whose names match.
    """
    model, network, run_it, call, inputs = network_of(family)
    named = call.partition(".")[0]
    asked = None if family in BY_PIPELINE else named
    with nullcontext() if fault is None else changed(fault):
        with ldmref.recording(network, call=asked) as run, torch.inference_mode():
            run_it()
    found = run.trace.tensors.items()
    begin = f"{named}.000/"
    kept = {
        f"{call}/{name.removeprefix(begin)}": x for name, x in found
        if name.startswith(begin) and not name.startswith(f"{begin}/")
        and re.fullmatch(recorded, name.removeprefix(begin))
    }  # fmt: skip
    return diff_traces(build_trace({**inputs, **kept}), model, dtype="float32")
