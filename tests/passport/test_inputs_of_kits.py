"""What kits give their networks, and what their page about it says: units, padding, rows."""

from functools import cache

import numpy as np
import pytest

from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.golden_models import golden_config, golden_model
from ldmref.cases.trace_runs import record_whole
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import family_of
from ldmref.passport.inputs import describe_inputs
from ldmref.passport.make import distinct_families
from ldmref.passport.recorded import kit_trace, record_with_encoder
from ldmref.ports.arguments import names_of
from ldmref.trace import Trace

FAMILIES = distinct_families()
CHANGED = 1e-3  # of the largest value of an output that reads other numbers
ROUNDING = 1e-11


@cache
def run_of(family):
    """Return the model of a kit in float64, and its run without layers."""
    model = golden_model(family, NumpyBackend(dtype="float64"))
    wanted = kit_trace(family)
    found = record_with_encoder(wanted, model, wanted.inputs(), record_whole)
    return model, Trace(found.tensors, tuple(found.entries), found.manifest)


def calls_of(family):
    """Yield the arguments and the output of each call of a kit's denoiser."""
    model, run = run_of(family)
    denoiser = model.denoiser
    for call in run.calls:
        if call.network == denoiser.name:
            entry = run.find(call)
            inputs = run.read_inputs(entry)
            yield (
                {x.argument: inputs[x.role] for x in denoiser.inputs if x.role in inputs},
                next(iter(run.read_outputs(entry).values())),
            )


def predict(family, arguments):
    """Return what the denoiser returns of other arguments."""
    model, _ = run_of(family)
    denoiser = model.denoiser
    params = model.params[denoiser.params]
    return denoiser.function(model.backend, params, **denoiser.settings, **arguments)


def argument(family, content):
    """Return the argument of a denoiser that has a content; the tests are made by it."""
    config = golden_config(family)
    networks = {one.name: one for one in family_of(config).networks(config)}
    inputs = networks[config.denoiser.network].inputs
    return next((x.argument for x in inputs if x.content == content), None)


def apart(one, other):
    """Return the largest difference of each image, relative to the largest value."""
    return np.abs(one - other).reshape(len(one), -1).max(axis=1) / np.abs(one).max()


MASKED = [name for name in FAMILIES if argument(name, "mask")]


@pytest.mark.parametrize("family", MASKED)
def test_padding_exists_and_matters(family):
    name = argument(family, "mask")
    differences = [
        apart(output, predict(family, {**arguments, name: np.ones_like(arguments[name])}))
        for arguments, output in calls_of(family)
    ]
    assert max(map(np.max, differences)) > CHANGED


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_says_which_rows_are_read(family):
    model, run = run_of(family)
    text = describe_inputs(model, run)
    arguments, output = next(calls_of(family))
    states = next(x.argument for x in model.denoiser.inputs if x.role == "encoder_hidden_states")
    name = argument(family, "mask")
    changed = arguments[states].copy()
    if name:
        changed[arguments[name] == 0] += 1.0
    else:
        changed[:, -1] += 1.0
    difference = apart(output, predict(family, {**arguments, states: changed})).max()
    assert ("The denoiser has a mask" in text) == bool(name)
    assert ("The denoiser has no mask" in text) == (name is None)
    assert difference <= ROUNDING if name else difference > CHANGED


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_has_every_input_of_the_run(family):
    model, run = run_of(family)
    text = describe_inputs(model, run)
    networks = {one.name: one for one in family_of(model.config).networks(model.config)}
    for entry in run.entries:
        network = networks.get(entry.call.network)
        for x in () if network is None else network.inputs:
            recorded = {*names_of(network, x)} & {*entry.inputs}
            assert not recorded or f"| {network.name} | `{x.role}` |" in text


@pytest.mark.parametrize("family", FAMILIES)
def test_first_times_are_numbers_of_float32(family):
    arguments, _ = next(calls_of(family))
    times = arguments[argument(family, "timesteps")]
    assert np.array_equal(times, times.astype(np.float32))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_program_can_run_the_size(family):
    model, _ = run_of(family)
    denoiser = model.config.denoiser
    arguments, _ = next(calls_of(family))
    height, width = next(x for x in arguments.values() if np.ndim(x) == 4).shape[2:]
    assert height != width
    if isinstance(denoiser, UNetConfig):
        # skip connections of a network that upsamples by 2 fit without output sizes
        factor = 2 ** (len(denoiser.block_out_channels) - 1)
        assert (height // factor, height % factor, width // factor, width % factor) == (2, 0, 3, 0)


def test_texts_are_on_both_sides_of_the_multiple():
    for family in MASKED:
        _, run = run_of(family)
        masks = [
            np.count_nonzero(run.tensors[entry.inputs["attention_mask"]], axis=-1)
            for entry in run.entries
            if entry.call.startswith("text_encoder") and "attention_mask" in entry.inputs
        ]
        lengths = np.concatenate(masks)
        assert lengths.max() - lengths.min() >= 16, (family, lengths)
