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
from collections.abc import Iterator
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

CALL = "transformer.000"
SIZE = {"width": 24, "height": 16}
LONGER = "red heart red heart red heart"
TOKENS = {"krea-2-tiny": 160}  # of a text, those of a template among them


class Fault(NamedTuple):
    """A fault of a network of diffusers.

    Attributes:
        family: The small model, "flux-tiny".
        place: The method that is changed: "attention.JointTransformerBlock.forward" of a module of
            `diffusers.models`; that of transformers has the name "transformer_flux".
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
    module_name, class_name, method = fault.place.split(".")
    folder = "transformers." if module_name.startswith("transformer_") else ""
    module = importlib.import_module(f"diffusers.models.{folder}{module_name}")
    owner = getattr(module, class_name)
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
    """A network that can be recorded: its model, it, its arguments, and the whole call's inputs."""

    model: Any
    network: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: dict[str, np.ndarray]


@functools.cache
def network_of(family: str) -> Recordable:
    """Return the transformer of a small model, with what its pipeline gives it."""
    model = make_model(family)
    pipe = make_pipeline(model, {"sampler": "euler", "cfg_scale": 1.0})
    network = getattr(pipe, model.config.denoiser.network)
    prompts = {"prompt": ["red", LONGER]}
    more = parts_of(model.config).request(model.config, {**prompts, "cfg_scale": 1.0, "steps": 2})
    request = {**prompts, "num_inference_steps": 2, **SIZE, **more}
    if "max_sequence_length" in inspect.signature(pipe.__call__).parameters:
        request["max_sequence_length"] = TOKENS.get(family, 64)
    seen: list[Any] = []

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        seen.append((args, kwargs))

    handle = network.register_forward_pre_hook(keep, with_kwargs=True)
    with ldmref.recording(pipe) as run, torch.inference_mode():
        pipe(generator=torch.Generator().manual_seed(5), **request)
    handle.remove()
    tensors = run.trace.tensors
    inputs = {name: x for name, x in tensors.items() if name.startswith(f"{CALL}//input")}
    args, kwargs = seen[0]
    return Recordable(model, network, args, kwargs, inputs)


def judge(family: str, fault: Fault | None = None, recorded: str = ".*") -> DiffReport:
    """Return the report on a network with a fault, of which some arrays are recorded.

    Args:
        family: The small model.
        fault: The fault. None: there is none.
        recorded: Of the layers' arrays, those whose names match.
    """
    model, network, args, kwargs, inputs = network_of(family)
    with nullcontext() if fault is None else changed(fault):
        with ldmref.recording(network, call="transformer") as run, torch.inference_mode():
            network(*args, **kwargs)
    found = run.trace.tensors.items()
    begin = f"{CALL}/"
    kept = {
        name: x for name, x in found
        if name.startswith(begin) and not name.startswith(f"{begin}/")
        and re.fullmatch(recorded, name.removeprefix(begin))
    }  # fmt: skip
    return diff_traces(build_trace({**inputs, **kept}), model, dtype="float32")
