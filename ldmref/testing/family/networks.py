"""The networks' numbers: those of the original, and each row of a batch as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork, same_size
from ldmref.models.params import Params, flatten, tree_map, unflatten
from ldmref.testing.family.oracles import Original
from ldmref.testing.family.report import Findings, shorten
from ldmref.testing.family.subject import Subject, require
from ldmref.trace.backend import flatten_arrays

# Between the rounding of a network in float64, about 1e-14, and that of one step in float32, 6e-8.
EXACT = 1e-10
FLOAT32 = 2.0**-20  # of latents of a result, which keep 24 binary digits
MASK = "mask"  # the content of an input that leaves out tokens


def check_originals(subject: Subject, found: Findings) -> None:
    """Check that originals compute what ldmref's functions do, in float64, on NumPy and torch."""
    if not subject.options.originals:
        found.leave_out("none was given (originals=)")
        return
    for original in subject.options.originals:
        network = declared_of(subject, original)
        what = f"{network.name} of {original.config.name!r}"
        with found.about(what):
            require("torch")
            for line in _compare_original(subject, original, network):
                found.problem(f"{what}: {line}")


def declared_of(subject: Subject, original: Original) -> DeclaredNetwork:
    """Return the declaration of the network that an original computes."""
    config = original.config
    return subject.family.declared(config, original.network or config.denoiser.network)


def _compare_original(
    subject: Subject, original: Original, network: DeclaredNetwork
) -> Iterator[str]:
    """Yield what differs between an original and the network of ldmref."""
    import torch

    state = original.read(original.module.state_dict())
    shapes = {name: tuple(x.shape) for name, x in state.items()}
    spec = flatten(network.spec())
    lines = [*_differing_names(shapes, spec)]
    yield from lines
    if lines:
        return
    narrow = {str(x.dtype) for x in state.values() if x.is_floating_point()} - {"torch.float64"}
    if narrow:
        yield f"the original's parameters are {shorten([*narrow])}: give module.double()"
        return
    weights = {name: x.detach().numpy() for name, x in state.items()}
    for side in original.sides:
        inputs = subject.inputs(original.config, network, f"original/{network.name}", side)
        wide = {n: x.astype(np.float64) if x.dtype.kind == "f" else x for n, x in inputs.items()}
        with torch.no_grad():
            tensors = {name: torch.tensor(x) for name, x in wide.items()}
            want = original.call(original.module, tensors).detach().numpy()
        for name in ("numpy", "torch"):
            ops = get_backend(name, dtype="float64")
            params = unflatten({n: ops.asarray(x) for n, x in weights.items()})
            got = next(iter(compute(ops, network, params, wide).values()))
            error = relative_error(got, want)
            if not error < EXACT:
                yield (
                    f"on {name} at {side[0]} x {side[1]} it is {error:.1e} of its largest value "
                    f"away from the original ({EXACT:.0e} allowed in float64)"
                )


def _differing_names(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parameters that only one side has, or that have another shape."""
    missing, more = sorted({*theirs} - {*ours}), sorted({*ours} - {*theirs})
    if missing:
        yield f"the original also has {shorten(missing)}"
    if more:
        yield f"the original lacks {shorten(more)}"
    for name in {*theirs} & {*ours}:
        if theirs[name] != ours[name]:
            yield f"{name} is {theirs[name]} in the original, {ours[name]} here"


def compute(
    ops: Backend, network: DeclaredNetwork, params: Params, inputs: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return the outputs of a network on the host, by name.

    Args:
        ops: The backend.
        network: The network.
        params: Its parameters, arrays of the backend.
        inputs: Host arrays by argument.
    """
    with ops.inference():
        arrays = {name: ops.asarray(x) for name, x in inputs.items()}
        result = network.function(ops, params, **network.settings, **arrays)
        return {n: ops.to_numpy(x) for n, x in flatten_arrays("output", result).items()}


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """Return the largest difference over the largest value; infinite for other shapes.

    Equal infinities are equal, such as the logarithm of a variance that is zero.
    """
    if got.shape != want.shape:
        return np.inf
    differs = got != want
    if not np.isfinite(got[differs]).all():
        return np.inf
    errors = np.abs(np.subtract(got, want, where=differs, out=np.zeros(got.shape)))
    largest = np.abs(want[np.isfinite(want)]).max(initial=1e-300)
    return float(errors.max(initial=0.0) / largest)


# -- a batch and its rows -------------------------------------------------------------------------


def check_batch(subject: Subject, found: Findings) -> None:
    """Check that each row of a batch is what it is alone: in every network, and in whole runs."""
    with found.about(""):
        for name, config in subject.require_small().items():
            for network in subject.family.networks(config):
                what = f"{network.name} of {name!r}"
                with found.about(what):
                    for line in _compare_rows(subject, name, config, network):
                        found.problem(f"{what}: {line}")
            if "txt2img" in subject.modes(config):
                with found.about(f"prompts of {name!r} together"):
                    for line in _compare_prompts(subject, name, config):
                        found.problem(f"{name!r}: {line}")


def float64_params(subject: Subject, name: str, network: DeclaredNetwork) -> Params:
    """Return the parameters of a network of a small model in float64."""
    params = subject.keep(("params", name), lambda: subject.params(name))[network.params]
    return tree_map(lambda x: np.asarray(x, np.float64), params)


def _compare_rows(
    subject: Subject, name: str, config: ModelConfig, network: DeclaredNetwork
) -> Iterator[str]:
    """Yield the rows of a batch that depend on the others, and outputs that are not declared."""
    ops = get_backend("numpy", dtype="float64")
    params = float64_params(subject, name, network)
    parts = [subject.inputs(config, network, f"{name}/{i}") for i in range(2)]
    inputs = {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
    whole = compute(ops, network, params, inputs)
    if network.outputs and len(whole) != len(network.outputs):
        yield f"it returns {len(whole)} arrays and declares {len(network.outputs)}"
    rows = len(next(iter(inputs.values())))
    for i in range(rows):
        alone = compute(ops, network, params, {n: x[i : i + 1] for n, x in inputs.items()})
        for output, x in alone.items():
            error = relative_error(whole[output][i : i + 1], x)
            if not error < EXACT:
                yield f"row {i} of {rows} is {error:.1e} away from the same row alone"
                return


def _compare_prompts(subject: Subject, name: str, config: ModelConfig) -> Iterator[str]:
    """Yield the prompts whose latents depend on the other prompts of their batch."""
    model = subject.model(name, get_backend("numpy", dtype="float64"))
    request = subject.modes(config)["txt2img"]
    prompts = subject.prompts(config)
    whole = subject.generate(model, "txt2img", request | {"prompt": prompts, "batch_size": 3})
    for i, prompt in enumerate(prompts):
        asked = request | {"prompt": prompt, "seed": whole.seeds[i]}
        alone = subject.generate(model, "txt2img", asked)
        error = relative_error(whole.latents[i : i + 1], alone.latents)
        if not error < FLOAT32:
            yield f"prompt {prompt!r} with {len(prompts) - 1} others is {error:.1e} away from alone"


# -- padding --------------------------------------------------------------------------------------


def check_padding(subject: Subject, found: Findings) -> None:
    """Check that what a declared mask leaves out changes no output of a network."""
    with found.about(""):
        for name, config in subject.require_small().items():
            for network in subject.family.networks(config):
                if not any(x.content == MASK for x in network.inputs):
                    continue
                what = f"{network.name} of {name!r}"
                with found.about(what):
                    for line in _compare_padding(subject, name, config, network):
                        found.problem(f"{what}: {line}")
    if not found.has_compared:
        found.leave_out(f"no network declares an input whose content is {MASK!r}")


def _compare_padding(
    subject: Subject, name: str, config: ModelConfig, network: DeclaredNetwork
) -> Iterator[str]:
    """Yield the outputs that change with the numbers of tokens that the mask leaves out."""
    ops = get_backend("numpy", dtype="float64")
    params = float64_params(subject, name, network)
    inputs = subject.inputs(config, network, f"{name}/padding")
    (masked,) = (x for x in network.inputs if x.content == MASK)
    left_out = inputs[masked.argument] == 0
    if not left_out.any():
        yield "the mask leaves out no token"
        return
    changed = dict(inputs)
    for x in network.inputs:
        if x is not masked and len(x.shape) > 1 and same_size(x.shape[1], masked.shape[1]):
            other = np.roll(inputs[x.argument], 1, axis=0)
            rows = left_out.reshape(*left_out.shape, *[1] * (other.ndim - 2))
            changed[x.argument] = np.where(rows, other, inputs[x.argument])
    before, after = (compute(ops, network, params, arrays) for arrays in (inputs, changed))
    for output, x in before.items():
        kept = ~left_out if x.ndim == 3 and x.shape[:2] == left_out.shape else np.s_[:]
        error = relative_error(after[output][kept], x[kept])
        if not error < EXACT:
            yield f"other padding changes the output by {error:.1e}"
