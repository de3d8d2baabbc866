"""The networks of recorded calls: their definitions, their arguments, and what was not recorded."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

import ldmref
from ldmref.errors import UsageError
from ldmref.locate import diff_traces
from ldmref.locate.replay import networks
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.params import init
from ldmref.models.taesd import TinyConfig
from ldmref.trace import build_trace

model_of = cache(ldmref.random_model)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


X, TEXT = normal(0, 2, 4, 8, 6), normal(1, 2, 16, 32)
T = np.array([3, 700])
WHOLE = {"sample": X, "timestep": T, "encoder_hidden_states": TEXT}
ARGUMENTS = {"sample": "x", "timestep": "t", "encoder_hidden_states": "context"}


def trace_of(whole, call="unet.000", layers=None, attributes=None, **manifest):
    """Return a trace of a call with arguments, whose layers have arrays by "LAYER/SIDE"."""
    tensors = {f"{call}/{name}": np.asarray(x) for name, x in (layers or {}).items()}
    roles = {role: f"{call}//input.{role}" for role in whole}
    tensors |= {roles[role]: np.asarray(x) for role, x in whole.items()}
    entry = {"call": call, "layer": "", "inputs": roles, "attributes": attributes or {}}
    return build_trace(tensors, {"entries": [entry] if whole else [], **manifest})


def opened(whole=None, model="tiny", nets=(), assume=False, number=0, **more):
    port = trace_of(WHOLE if whole is None else whole, **more)
    return networks.open_network(model_of(model), port, port.calls[number], nets, assume)


# -- arguments ------------------------------------------------------------------------------------


def test_recorded_arguments_are_those_of_the_function():
    found = opened()
    assert found.complete and found.network.name == "unet"
    for role, argument in ARGUMENTS.items():
        assert found.arguments[argument].dtype == np.float64
        assert np.array_equal(found.arguments[argument], WHOLE[role])
    assert found.arguments.get("control") is None and "steering" not in found.arguments
    assert found.function is found.network.function
    assert found.params is model_of("tiny").params["unet"]


@pytest.mark.parametrize("missing", WHOLE)
def test_what_was_not_recorded_is_not_a_number(missing):
    found = opened({role: x for role, x in WHOLE.items() if role != missing})
    x = found.arguments[ARGUMENTS[missing]]
    assert not found.complete and np.isnan(x).all() and len(x) == 2
    assumed = opened(assume=True)
    assert np.isnan(assumed.arguments[ARGUMENTS[missing]]).all() and not assumed.complete


@pytest.mark.parametrize(
    ("changed", "argument", "right"),
    [
        ({"timestep": np.array(7)}, "t", [7.0, 7.0]),
        ({"timestep": np.array([7])}, "t", [7.0, 7.0]),
        ({"timestep": np.array([[3.0], [4.0]])}, "t", [3.0, 4.0]),
        ({"sample": X.transpose(0, 2, 3, 1)}, "x", X),
    ],
)
def test_numbers_of_each_image_and_other_orders_of_axes(changed, argument, right):
    found = opened(WHOLE | changed).arguments[argument]
    assert np.array_equal(found, np.asarray(right)) and found.flags.writeable


@pytest.mark.parametrize(
    ("layers", "shapes"),
    [
        ({"conv_in/input": X}, {"x": X.shape}),
        ({"down_blocks.1.resnets.0/input": X[:, :, :4, :3]}, {"x": X.shape}),
        ({"a.attn2.to_k/output": TEXT}, {"context": TEXT.shape}),
    ],
)
def test_sizes_that_were_not_recorded_are_those_of_the_layers(layers, shapes):
    found = opened({}, layers=layers)
    assert not found.complete
    for name, shape in shapes.items():
        assert found.arguments[name].shape == shape and np.isnan(found.arguments[name]).all()


def test_a_text_without_a_mask_is_read_whole():
    sample = normal(0, 2, model_of("z-image-tiny").config.vae.latent_channels, 4, 4)
    whole = {"sample": sample, "encoder_hidden_states": normal(1, 2, 7, 20)}
    found = opened(whole, "z-image-tiny", call="transformer.000")
    assert found.arguments["mask"].dtype == np.int64 and found.assumed == ("mask",)
    assert found.arguments["mask"].tolist() == [[1] * 7] * 2


def test_ids_have_the_number_of_recorded_tokens():
    ids = np.array([[1, 4, 2], [1, 5, 2]], np.int32)
    found = opened({"input_ids": ids}, call="text_encoder.000").arguments["ids"]
    assert found.dtype == np.int64 and np.array_equal(found, ids)
    layer = {"text_model.encoder.layers.0/output": normal(0, 2, 5, 32)}
    found = opened({}, call="text_encoder.000", layers=layer)
    assert found.arguments["ids"].shape == (2, 5) and found.assumed == ("ids",)
    bare = opened({}, call="text_encoder.000", layers={"x/output": np.ones(3)})
    assert len(bare.arguments["ids"]) == 1


@pytest.mark.parametrize("scales", [[3.0], [3.0, 4.0], [3.0, 4.0, 5.0]])
def test_guidance_of_two_texts_has_two_scales(scales):
    whole = {"sample": normal(0, 1, 16, 8, 8), "guidance": np.array(scales)}
    if len(scales) < 3:
        found = opened(whole, "flux-tiny", call="transformer.000")
        assert found.arguments["guidance"].tolist() == scales
        return
    with pytest.raises(ValueError, match="broadcast"):
        opened(whole, "flux-tiny", call="transformer.000")


@pytest.mark.parametrize(
    ("asked", "own", "skip"),
    [
        (None, None, 0),
        (1, None, 1),
        (2, None, 0),  # of two layers, one is left
        (0, None, 0),
        (-1, None, 0),
        (1.0, None, 0),
        (None, 1, 1),
        (0, 1, 1),
        (1, 0, 0),
    ],
)
def test_a_text_encoder_leaves_out_layers_as_its_call_or_the_run_says(asked, own, skip):
    found = opened(
        {"input_ids": np.ones((1, 2))},
        call="text_encoder.000",
        attributes={} if own is None else {"clip_skip": own},
        params={} if asked is None else {"clip_skip": asked},
    )
    assert found.arguments["skip"] == skip


@pytest.mark.parametrize(
    ("attributes", "steered"),
    [
        ({"identity_attention": ["mid"]}, {"identity_attention": ("mid",)}),
        ({"identity_attention": []}, {}),
        ({"identity_attention": "mid"}, {}),
        ({"skip_layers": [0]}, {}),  # which U-Nets do not take
        ({"other": ["mid"]}, {}),
    ],
)
def test_what_steers_a_call_is_given_to_it(attributes, steered):
    found = opened(attributes=attributes)
    given = {k: x for one in found.arguments.get("steering", ()) for k, x in one.recorded.items()}
    plain = model_of("tiny").denoiser.function
    assert given == steered and (found.function is plain) == (not steered)


# -- definitions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["transformer.000", "taesd.decode.000"])
def test_networks_that_a_model_lacks_are_refused(call):
    port = trace_of({"sample": X}, call)
    for find in (networks.open_network, networks.try_network):
        with pytest.raises(UsageError, match=f"has no {call.partition('.')[0]}") as caught:
            find(model_of("tiny"), port, port.calls[0])
        assert caught.value.code == "E-TRACE-MODEL"


def test_arrays_that_do_not_fit_are_a_reason():
    port = trace_of(WHOLE | {"timestep": np.arange(3)})
    found, why = networks.try_network(model_of("tiny"), port, port.calls[0])
    assert found is None and "broadcast" in why
    found, why = networks.try_network(model_of("tiny"), port, port.calls[0], (), True)
    assert found is not None and why == ""


class NotedParams(dict):
    """Parameters of networks, which notes those that are read."""

    def __init__(self, params):
        super().__init__(params)
        self.read = []

    def __getitem__(self, name):
        self.read.append(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("kind", ["taesd.decode", "taesd.encode", "vae.decode"])
def test_no_other_weights_are_read_to_find_a_network_beside_taesd(kind):
    own, tiny = model_of("tiny"), SimpleNamespace(config=TinyConfig(), params={"a": 1})
    params = NotedParams(own.params)
    model = SimpleNamespace(
        config=own.config, family=own.family, params=params, tiny_autoencoder=tiny
    )
    port = trace_of({"latents": X}, f"{kind}.000")
    network, found = networks.find_definition(model, port, port.calls[0], ())
    assert network.name == kind and params.read == (["vae"] if kind == "vae.decode" else [])
    assert found is (own.params["vae"] if kind == "vae.decode" else tiny.params)


# -- ControlNets ----------------------------------------------------------------------------------


def control_net(seed):
    model = model_of("tiny")
    config = ControlNetConfig(model.config.unet, conditioning_embedding_out_channels=(4, 8))
    return ControlNet(model.backend, config, init(controlnet_spec(config), seed), f"net {seed}")


@pytest.mark.parametrize(
    ("calls", "numbers"),
    [
        (["controlnet.000", "controlnet.001", "controlnet.002"], [0, 1, 2]),
        (["controlnet_1.000", "controlnet_2.000", "controlnet_3.005"], [0, 1, 2]),
        (["controlnet.003", "controlnet_2.000"], [0, 1]),
        (["controlnet.005"], [5]),
    ],
)
def test_controlnets_are_called_in_turn_or_named(calls, numbers):
    port = build_trace({f"{call}//input.x": np.zeros(1) for call in calls})
    assert [networks.number_controlnet(port, call) for call in port.calls] == numbers
    nets = (control_net(3), control_net(4))
    for call, number in zip(port.calls, numbers, strict=True):
        _, params = networks.find_definition(model_of("tiny"), port, call, nets)
        expected = nets[number % 2].for_denoiser(model_of("tiny").params["unet"]).params
        assert np.array_equal(params["conv_in"]["weight"], expected["conv_in"]["weight"])


@pytest.mark.parametrize("scale", [2.0, 2, 0.5, 0, 1.0, 1, "2", None, [2.0]])
def test_a_recorded_weight_is_that_of_the_output(scale):
    attributes = {} if scale is None else {"conditioning_scale": scale}
    nets = (control_net(3),)
    found = opened(call="controlnet.000", nets=nets, attributes=attributes)
    weighed = isinstance(scale, int | float) and scale != 1
    assert hasattr(found.function, "__wrapped__") == weighed
    first, second = networks.weigh_output(lambda x: (x, (x + 1.0,)), 3.0)(X)
    assert np.array_equal(first, 3.0 * X) and np.allclose(second[0], 3.0 * X + 3.0)


# -- calls of a trace -----------------------------------------------------------------------------

LAYER = {"conv_in/input": X, "conv_in/output": X}


def rows_of(report):
    return {row.layer: (row.verdict, row.note) for row in report.rows}


@pytest.mark.parametrize(
    ("call", "note"),
    [
        ("controlnet.000", "no ControlNet was given"),
        ("controlnet_2.000", "no ControlNet was given"),
        ("guide.unet.000", "no weaker model was given"),
    ],
)
def test_calls_without_their_network_have_rows(call, note):
    report = diff_traces(trace_of(WHOLE, call, layers=LAYER), model_of("tiny"))
    assert ("not judged", note) in [(row.verdict, row.note) for row in report.rows]


def test_layers_that_no_definition_has_are_gaps():
    others = {"nowhere/output": X + 1, "elsewhere/output": X + 2}
    tensors = {f"unet.000/{name}": x for name, x in {**LAYER, **others}.items()}
    report = diff_traces(build_trace(tensors | {"what.000/x/output": X}), model_of("tiny"))
    assert report.gaps == (
        "2 layers are not in ldmref's definition of unet: elsewhere, nowhere",
        "what.000 is no call of a trace",
    )
    alone = diff_traces(build_trace({"unet.000/nowhere/output": X}), model_of("tiny"))
    assert rows_of(alone)[""][0] == "not judged"


def test_attention_of_a_port_is_not_judged():
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1"
    layers = LAYER | {f"{layer}/output": X, f"{layer}.to_q/output": X}
    port = trace_of({"sample": X}, layers=layers, attributes={"own_attention": {layer: "Mine"}})
    entries = (*build_trace(port.tensors).entries, *port.entries)
    report = diff_traces(replace(port, entries=entries), model_of("tiny"))
    note = "its attention is that of Mine, which ldmref does not have"
    assert rows_of(report)[layer] == ("not judged", note)
    assert f"{layer}.to_q" not in rows_of(report) and rows_of(report)["conv_in"][0] == "differs"
    assert not report.gaps


def test_progress_counts_calls():
    tensors = {f"unet.{i:03}/{name}": x for i in range(2) for name, x in LAYER.items()}
    seen = []
    report = diff_traces(
        build_trace(tensors), model_of("tiny"), progress=lambda *values: seen.append(values)
    )
    assert seen == [(0, 2, "unet.000"), (1, 2, "unet.001"), (2, 2, "")]
    assert report.seconds > 0.0 and report.dtype == "float64"
    with pytest.raises(UsageError, match="neither a model nor a reference"):
        diff_traces(build_trace(tensors), None)
    with pytest.raises(UsageError, match="no tensor named") as caught:
        diff_traces(build_trace({}), model_of("tiny"))
    assert caught.value.code == "E-TRACE"
