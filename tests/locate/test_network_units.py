"""The networks of recorded calls: their definitions, arguments, and what was not recorded."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.errors import UsageError
from ldmref.locate import diff_traces, networks
from ldmref.locate.arguments import RecordedArguments
from ldmref.locate.findings import Row
from ldmref.locate.unfit import first_line, try_judge
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.params import init
from ldmref.models.taesd import TinyConfig
from ldmref.support.lazy_mapping import LazyMapping
from ldmref.trace import build_trace

SHAPE = (2, 4, 8, 8)
X, TEXT = normal(0, *SHAPE), normal(1, 2, 16, 32)
T = np.array([3, 700])
WHOLE = {"input.sample": X, "input.timestep": T, "input.encoder_hidden_states": TEXT}


def opened(calls, model="tiny", attributes=None, call=None, nets=(), assume=False, **manifest):
    context = context_of(calls, model, attributes=attributes, **manifest)
    call = call or next(iter(calls)).partition("/")[0]
    found = context.port.find(call)
    name = next(c for c in context.port.calls if c == call) if found is None else found.call
    return networks.open_network(context.model, context.port, name, nets, assume)


def control_net(seed=3):
    model = model_of("tiny")
    config = ControlNetConfig(model.config.unet, conditioning_embedding_out_channels=(4, 8))
    return ControlNet(model.backend, config, init(controlnet_spec(config), seed), f"net {seed}")


# -- arguments ------------------------------------------------------------------------------------


def test_recorded_arguments_are_those_of_the_function():
    found = opened({"unet.000": WHOLE})
    assert found.complete and found.network.name == "unet"
    assert np.array_equal(found.arguments["x"], X) and found.arguments["x"].dtype == np.float64
    assert found.arguments["t"].tolist() == [3.0, 700.0]
    assert np.array_equal(found.arguments["context"], TEXT)
    assert found.arguments.get("control") is None
    assert found.function is found.network.function
    assert found.params is model_of("tiny").params["unet"]


@pytest.mark.parametrize("t", [np.array(7), np.array([7]), np.array([7, 7])])
def test_one_time_is_that_of_all_examples(t):
    found = opened({"unet.000": WHOLE | {"input.timestep": t}})
    assert found.arguments["t"].tolist() == [7.0, 7.0] and found.complete


def test_channels_that_come_last_are_turned():
    turned = X[..., :6].transpose(0, 2, 3, 1)
    found = opened({"unet.000": WHOLE | {"input.sample": turned}})
    assert np.array_equal(found.arguments["x"], X[..., :6])


def test_a_text_without_a_mask_is_read_whole():
    """The text was recorded, and no layer: its length is that of the mask."""
    text = normal(1, 2, 7, 20)
    sample = normal(0, 2, model_of("z-image-tiny").config.vae.latent_channels, 4, 4)
    calls = {"transformer.000": {"input.sample": sample, "input.encoder_hidden_states": text}}
    mask = opened(calls, "z-image-tiny").arguments["mask"]
    assert mask.shape == (2, 7) and mask.dtype == np.int64 and mask.all()


@pytest.mark.parametrize("missing", list(WHOLE))
def test_what_was_not_recorded_is_not_a_number(missing):
    arrays = {name: x for name, x in WHOLE.items() if name != missing}
    if missing == "input.sample":  # the number of examples is then that of the text
        arrays["input.timestep"] = T[:1]
    found = opened({"unet.000": arrays})
    argument = {"sample": "x", "timestep": "t", "encoder_hidden_states": "context"}[missing[6:]]
    x = found.arguments[argument]
    assert not found.complete and np.isnan(x).all()
    sizes = {"x": (2, 4, 4, 4), "t": (2,), "context": (2, 1, 32)}
    assert x.shape == sizes[argument]


def test_sizes_follow_from_the_layers():
    layers = {
        "unet.000/conv_in": {"input": X},
        "unet.000/down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": {"output": TEXT},
    }
    found = opened(layers)
    assert found.arguments["x"].shape == SHAPE and found.arguments["context"].shape == (2, 16, 32)
    assert np.isnan(found.arguments["x"]).all() and np.isnan(found.arguments["context"]).all()
    assert not found.complete


def test_ids_have_the_number_of_recorded_tokens():
    ids = np.array([[1, 4, 2], [1, 5, 2]])
    found = opened({"text_encoder.000": {"input.input_ids": ids}})
    assert found.arguments["ids"].dtype == np.int64 and np.array_equal(found.arguments["ids"], ids)
    layer = {"text_encoder.000/text_model.encoder.layers.0": {"output": normal(0, 2, 5, 32)}}
    found = opened(layer)
    assert found.arguments["ids"].shape == (2, 5) and np.isnan(found.arguments["ids"]).all()
    assert opened({"text_encoder.000/x": {"output": np.ones(3)}}).arguments["ids"].shape[0] == 1


def test_whole_arrays_are_assumed_if_they_do_not_fit():
    found = opened({"unet.000": WHOLE}, assume=True)
    assert all(np.isnan(found.arguments[name]).all() for name in ("x", "t", "context"))
    assert found.arguments["x"].shape[0] == 1


def test_guidance_of_two_texts_has_two_scales():
    fields = {"guidance": np.array([3.0, 4.0]), "timestep": np.array([0.5])}
    sample = normal(0, 1, 16, 8, 8)
    calls = {
        "transformer.000": {"input.sample": sample, **{f"input.{k}": x for k, x in fields.items()}}
    }
    found = opened(calls, "flux-tiny")
    assert found.arguments["guidance"].tolist() == [3.0, 4.0]
    calls["transformer.000"]["input.guidance"] = np.array([3.0])
    assert opened(calls, "flux-tiny").arguments["guidance"].tolist() == [3.0]
    calls["transformer.000"]["input.guidance"] = np.array([3.0, 4.0, 5.0])
    with pytest.raises(ValueError, match="broadcast"):
        opened(calls, "flux-tiny")


def test_clip_skip_is_an_argument():
    ids = np.array([[1, 4, 2]])
    calls = {"text_encoder.000": {"input.input_ids": ids}}
    assert opened(calls).arguments["skip"] == 0
    assert opened(calls, params={"clip_skip": 1}).arguments["skip"] == 1


# -- definitions ----------------------------------------------------------------------------------


def test_networks_that_a_model_lacks_are_refused():
    with pytest.raises(UsageError, match="has no transformer") as caught:
        opened({"transformer.000": {"input.sample": X}})
    assert caught.value.code == "E-TRACE-MODEL"
    with pytest.raises(UsageError, match="has no taesd"):
        opened({"taesd.decode.000": {"input.sample": X}})
    context = context_of({"transformer.000": {"input.sample": X}})
    call = entry_of(context, "transformer.000").call
    with pytest.raises(UsageError):
        networks.try_network(context.model, context.port, call)


def test_arrays_that_do_not_fit_are_a_reason():
    broken = WHOLE | {"input.timestep": np.arange(3)}
    context = context_of({"unet.000": broken})
    call = entry_of(context, "unet.000").call
    found, why = networks.try_network(context.model, context.port, call)
    assert found is None and "broadcast" in why
    found, why = networks.try_network(context.model, context.port, call, (), True)
    assert found is not None and why == ""
    good = context_of({"unet.000": WHOLE})
    found, why = networks.try_network(good.model, good.port, call)
    assert found is not None and why == ""


class NotedParams(LazyMapping):
    """Parameters of networks, which notes those that are read."""

    def __init__(self, params):
        self.params = params
        self.read = []

    @property
    def names(self):
        return tuple(self.params)

    def __getitem__(self, name):
        found = self.params[name]
        self.read.append(name)
        return found


def beside_taesd(kind, params):
    """Return the network of a call of a model with TAESD, its parameters, and those of TAESD."""
    own, tiny = model_of("tiny"), SimpleNamespace(config=TinyConfig(), params={"a": 1})
    model = SimpleNamespace(
        config=own.config, family=own.family, params=params, tiny_autoencoder=tiny
    )
    context = context_of({f"{kind}.000": {"input.latents": X}})
    (call,) = context.port.calls
    return *networks.find_definition(model, context.port, call, ()), tiny.params


@pytest.mark.parametrize(
    ("kind", "read"), [("taesd.decode", []), ("taesd.encode", []), ("vae.decode", ["vae"])]
)
def test_no_other_weights_are_read_to_find_a_network_beside_taesd(kind, read):
    params = NotedParams(model_of("tiny").params)
    network, found, tiny = beside_taesd(kind, params)
    assert network.name == kind and params.read == read
    assert found is (model_of("tiny").params["vae"] if read else tiny)


def test_networks_beside_taesd_may_have_no_parameters():
    network, found, _ = beside_taesd("vae.decode", {})
    assert network.name == "vae.decode" and found is None
    with pytest.raises(UsageError, match="has no transformer"):
        beside_taesd("transformer", {})


def controlnet_calls(*names):
    hint = np.ones((2, 3, 16, 16))
    arrays = WHOLE | {"input.controlnet_cond": hint}
    return {name: arrays for name in names}


def test_controlnets_are_called_in_turn_or_named():
    nets = (control_net(3), control_net(4))
    calls = controlnet_calls("controlnet.000", "controlnet.001", "controlnet.002")
    for number, call in enumerate(calls):
        found = opened(calls, call=call, nets=nets)
        expected = nets[number % 2].for_denoiser(model_of("tiny").params["unet"])
        assert np.array_equal(
            found.params["conv_in"]["weight"], expected.params["conv_in"]["weight"]
        )
    named = controlnet_calls("controlnet.000", "controlnet_2.000", "controlnet.001")
    for call, number in (("controlnet.000", 0), ("controlnet_2.000", 1), ("controlnet.001", 0)):
        context = context_of(named)
        assert networks.number_controlnet(context.port, entry_of(context, call).call) == number


def test_outputs_of_controlnets_have_weights():
    net = control_net()
    plain = opened(controlnet_calls("controlnet.000"), nets=(net,))
    for scale, changed in ((2.0, True), (1.0, False), ("x", False)):
        of = {"controlnet.000": {"conditioning_scale": scale}}
        found = opened(controlnet_calls("controlnet.000"), nets=(net,), attributes=of)
        assert (found.function is plain.function) == (not changed)
    first, second = networks.weigh_output(lambda x: (x, (x + 1.0,)), 3.0)(X)
    assert np.array_equal(first, 3.0 * X) and np.allclose(second[0], 3.0 * X + 3.0)


def test_residuals_are_read_by_number():
    names = {f"input.control.down.{i}": np.full((1, 2), float(i)) for i in range(3)}
    port = context_of({"unet.000": names}).port
    found = RecordedArguments(port, "unet.000", model_of("tiny"))
    assert [x[0, 0] for x in found.read_numbered("control.down")] == [0.0, 1.0, 2.0]
    assert found.read_numbered("control.up") == ()
    assert found.residuals(()) is None  # without that of the middle
    mid = {**names, "input.control.mid": np.ones((1, 2))}
    found = RecordedArguments(context_of({"unet.000": mid}).port, "unet.000", model_of("tiny"))
    placed = found.residuals(())
    assert placed is not None and len(placed.down) == 3 and placed.mid.tolist() == [[1.0, 1.0]]
    without = replace(model_of("sd3-tiny").family, control=None)
    model = SimpleNamespace(config=None, family=without)
    assert RecordedArguments(port, "unet.000", model).residuals(()) is None


def test_layers_are_found_by_their_endings():
    calls = {
        "unet.000/a.conv_in": {"input.other": np.ones(2)},
        "unet.000/b.conv_in": {"input": np.full(2, 2.0), "output": np.ones((1, 7, 3))},
        "unet.000/c.conv_in": {"input": np.full(2, 3.0), "output": np.ones((1, 9, 3))},
    }
    found = RecordedArguments(context_of(calls).port, "unet.000", model_of("tiny"))
    assert found.layer_input("conv_in").tolist() == [2.0, 2.0]
    assert found.layer_input("conv_out") is None
    assert found.length("conv_in") == 7 and found.length("conv_out") == 1
    assert found.length("x", "c.conv_in") == 9
    assert found.layer_output("b.conv_in").shape == (1, 7, 3)
    assert found.layer_output("a.conv_in") is found.layer_output("none") is None


def test_the_table_of_distances_tells_the_length_alone():
    name = "text_encoder.000/encoder.block.0.layer.0.SelfAttention.relative_attention_bias"

    def shape(**calls):
        return RecordedArguments(
            context_of(calls).port, "text_encoder.000", model_of("tiny")
        ).text_shape()

    table = {name: {"input": np.zeros((5, 5), int), "output": np.zeros((5, 5, 2))}}
    assert shape(**table) == (1, 5)
    layer = {"text_encoder.000/encoder.block.0": {"output": np.zeros((3, 6, 8))}}
    assert shape(**table, **layer) == (3, 6)
    heads = {"text_encoder.000/x": {"output": np.zeros((3, 2, 6, 8))}}
    assert shape(**heads) == (3, 6)
    assert shape(**{"text_encoder.000/x": {"output": np.zeros((3, 6))}}) is None


# -- calls of a trace -----------------------------------------------------------------------------


def test_calls_without_their_network_have_rows():
    calls = controlnet_calls("controlnet.000") | {"guide.unet.000": WHOLE}
    tensors = {f"{call}//{side}": x for call, arrays in calls.items() for side, x in arrays.items()}
    tensors["guide.unet.000/conv_in/output"] = X
    tensors["controlnet.000/conv_in/output"] = X
    report = diff_traces(build_trace(tensors), model_of("tiny"))
    notes = {row.call: row.note for row in report.rows if row.note.startswith("no ")}
    assert notes == {
        "controlnet.000": "no ControlNet was given",
        "guide.unet.000": "no weaker model was given",
    }


def test_layers_that_no_definition_has_are_gaps():
    tensors = {
        "unet.000/conv_in/input": X,
        "unet.000/conv_in/output": X,
        "unet.000/nowhere/output": X + 1,
        "unet.000/elsewhere/output": X + 2,
        "what.000/x/output": X,
    }
    report = diff_traces(build_trace(tensors), model_of("tiny"))
    assert report.gaps == (
        "2 layers are not in ldmref's definition of unet: elsewhere, nowhere",
        "what.000 is no call of a trace",
    )
    alone = build_trace({"unet.000/nowhere/output": X})
    (row,) = [row for row in diff_traces(alone, model_of("tiny")).rows if not row.layer]
    assert (row.call, row.verdict) == ("unet.000", "not judged")


def test_attention_of_a_port_is_not_judged():
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1"
    tensors = {
        "unet.000/conv_in/input": X,
        "unet.000/conv_in/output": X,
        f"unet.000/{layer}/output": X,
        f"unet.000/{layer}.to_q/output": X,
        "whole": X,
    }
    attributes = {"own_attention": {layer: "Mine"}}
    whole = {"call": "unet.000", "layer": "", "inputs": {"sample": "whole"}}
    entries = [{**whole, "attributes": attributes}]
    report = diff_traces(build_trace(tensors, {"entries": entries}), model_of("tiny"))
    found = {row.layer: (row.verdict, row.note) for row in report.rows}
    note = "its attention is that of Mine, which ldmref does not have"
    assert ("not judged", note) in [(r.verdict, r.note) for r in report.rows if r.layer == layer]
    assert f"{layer}.to_q" not in found and found["conv_in"][0] == "differs"
    assert not report.gaps


def test_progress_counts_calls():
    tensors = {f"unet.{i:03}/conv_in/{side}": X for i in range(2) for side in ("input", "output")}
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


# -- arrays that do not fit -----------------------------------------------------------------------


def test_rows_before_an_error_are_kept():
    def judge_many(context):
        yield Row("a", "")
        raise context

    for error in (ValueError("x\ny"), IndexError("x"), ZeroDivisionError("x"), TypeError("x")):
        first, last = try_judge(judge_many, error)
        assert first.call == "a" and (last.call, last.verdict) == ("many", "not judged")
        assert last.note == "its arrays do not fit each other: x"
    with pytest.raises(UsageError):
        try_judge(judge_many, UsageError("x", code="E-X"))
    with pytest.raises(KeyError):
        try_judge(judge_many, KeyError("x"))
    assert first_line(ValueError()) == "ValueError" and first_line(ValueError("a\nb")) == "a"
