"""Autoguidance in a request: a second model, against loops over the denoisers of both."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import explore, modes
from ldmref.errors import LdmrefError
from ldmref.io.native import save_folder
from ldmref.locate import diff_traces
from ldmref.models import preset
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.modes import active_guide, guide
from ldmref.modes.registry import read_request
from ldmref.modes.txt2img import plan_txt2img
from ldmref.trace import read_trace, record_trace

PROMPT = "a red cat"
LEVELS = {"tiny": (3.0, 1.0, 0.3, 0.0)}
FLOW_LEVELS = (1.0, 0.7, 0.3, 0.0)
GUIDED = {"guidance": "autoguidance", "seed": 3, "steps": 3}
TEAL = Image.new("RGB", (16, 16), "teal")
MASK = Image.new("L", (16, 16), 0)
MASK.paste(255, (8, 0, 16, 16))


def narrow(config):
    """A smaller network of the same family and latents."""
    if config.name == "tiny":
        network = replace(config.unet, block_out_channels=(16, 16))
    elif config.name == "flux-tiny":
        network = replace(config.denoiser, num_layers=1, num_single_layers=1)
    else:
        network = replace(config.denoiser, num_layers=1, dual_attention_layers=())
    return replace(config, name="narrow", denoiser=network)


def model_of(config, seed=0, backend="numpy"):
    """A model with random weights, on the tokenizer of `random_model`."""
    tokenizer = ldmref.random_model("tiny").tokenizer
    ops = ldmref.random_model("tiny", backend=backend).backend
    return LatentDiffusion(ops, config, init(model_spec(config), seed), tokenizer)


@pytest.fixture(scope="module", params=["tiny", "sd3-tiny", "flux-tiny"])
def config(request):
    return preset(request.param)


@pytest.fixture(scope="module", params=["numpy", "torch"])
def pair(request, config):
    """(a model, a weaker one)."""
    if request.param == "torch":
        pytest.importorskip("torch")
    weaker = model_of(narrow(config), 1, request.param)
    return model_of(config, 0, request.param), weaker


def euler(denoise, x, levels):
    """Euler's method on dx/ds = (x - D(x, s)) / s."""
    for s, after in pairwise(levels):
        x = x + (after - s) / s * (x - denoise(x, s))
    return x


@pytest.mark.parametrize(("weight", "scale"), [(2.0, None), (0.0, None), (3.0, 2.5)])
def test_images_are_those_of_a_loop_over_both_denoisers(pair, weight, scale):
    """D_weak + w (D - D_weak), where D has classifier-free guidance if the request asks for it."""
    model, weaker = pair
    levels = LEVELS.get(model.config.name, FLOW_LEVELS)
    noise = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    reads = model.config.denoiser.reads_guidance
    own = (model.config.defaults.cfg_scale if scale is None else scale) if reads else 1.0
    good = ldmref.denoiser(model, PROMPT, cfg_scale=scale or own)
    bad = ldmref.denoiser(weaker, PROMPT, cfg_scale=own)
    arrays = model.backend

    def denoise(x, s):
        x = arrays.asarray(x, "float32")
        better, worse = (np.asarray(arrays.to_numpy(d(x, s)), np.float64) for d in (good, bad))
        return worse + weight * (better - worse)

    plain = {"sampler": "euler", "sigmas": levels, "latents": noise}
    guidance = {"name": "autoguidance", "weight": weight}
    request = {"prompt": PROMPT, "guidance": guidance, "guide": weaker, "cfg_scale": scale} | plain
    plan = modes.plan("txt2img", model, **request)
    found = plan.run(model)
    alone = modes.txt2img(model, PROMPT, cfg_scale=scale or own, **plain)
    first = plan.job.make_schedule(model.config).init_noise_sigma
    want = euler(denoise, first * noise.astype(np.float64), levels)
    assert np.abs(found.latents - want).max() < 1e-4 * np.abs(want).max()
    assert np.abs(alone.latents - want).max() > 1e-2


def test_a_model_guided_by_itself_is_the_model_alone(pair):
    """Bit for bit, since D + w (D - D) = D."""
    model, _ = pair
    reads = model.config.denoiser.reads_guidance
    scale = {} if reads else {"cfg_scale": 1.0}
    guided = modes.txt2img(model, PROMPT, guide=model, **GUIDED)
    alone = modes.txt2img(model, PROMPT, seed=3, steps=3, **scale)
    assert np.array_equal(guided.latents, alone.latents)
    assert guided.params["cfg_scale"] == (model.config.defaults.cfg_scale if reads else 1.0)


def test_weight_1_never_calls_the_weaker_network(pair, monkeypatch):
    model, weaker = pair
    monkeypatch.setattr(weaker, "predict", None)
    reads = model.config.denoiser.reads_guidance
    one = {"name": "autoguidance", "weight": 1.0}
    found = modes.txt2img(model, PROMPT, guide=weaker, **GUIDED | {"guidance": one})
    scale = {} if reads else {"cfg_scale": 1.0}
    alone = modes.txt2img(model, PROMPT, seed=3, steps=3, **scale)
    assert np.array_equal(found.latents, alone.latents)


@pytest.fixture(scope="module")
def tiny():
    """(a model, a weaker one)."""
    return model_of(preset("tiny")), model_of(narrow(preset("tiny")), 1)


@pytest.mark.parametrize(
    "request_of",
    [
        ("img2img", {"image": TEAL, "strength": 0.7}),
        ("inpaint", {"image": TEAL, "mask": MASK}),
        ("txt2img", {"upscale": 2.0, "prompt": [PROMPT, "a dog"], "batch_size": 2}),
        ("txt2img", {"prompt": "red " * 20 + "cat", "long_prompts": "chunk"}),
        ("interpolate", {"prompt_b": "a dog", "positions": 3}),
    ],
    ids=lambda request: request[0],
)
def test_every_mode_with_prompts_has_it(tiny, request_of):
    mode, more = request_of
    model, weaker = tiny
    values = {"prompt": PROMPT, **GUIDED} | more
    by_itself = modes.plan(mode, model, guide=model, **values).run(model)
    plain = {name: x for name, x in values.items() if name != "guidance"}
    alone = modes.plan(mode, model, cfg_scale=1.0, **plain).run(model)
    assert np.array_equal(by_itself.latents, alone.latents)
    guided = modes.plan(mode, model, guide=weaker, **values).run(model)
    assert np.abs(guided.latents - alone.latents).max() > 1e-2
    assert guided.params["guide"]["name"] == "narrow"


def test_both_networks_read_the_controlnets(tiny):
    """So a model that guides itself is the model alone, with its ControlNet."""
    model, weaker = tiny
    net = ControlNetConfig(model.config.unet, conditioning_embedding_out_channels=(4, 8))
    net = ControlNet(model.backend, net, init(controlnet_spec(net), 3), "edges")
    control = {"control": [modes.Control(net, TEAL)], "seed": 3, "steps": 3}
    guided = modes.txt2img(model, PROMPT, guide=model, guidance="autoguidance", **control)
    alone = modes.txt2img(model, PROMPT, cfg_scale=1.0, **control)
    assert np.array_equal(guided.latents, alone.latents)
    with pytest.raises(LdmrefError, match="'edges' does not fit the model") as refused:
        modes.plan("txt2img", model, prompt=PROMPT, guide=weaker, **GUIDED | control)
    assert refused.value.code == "E-CONTROL"


def test_the_public_denoiser_has_it(tiny):
    model, weaker = tiny
    x = np.random.default_rng(1).standard_normal((2, 4, 8, 8)).astype(np.float32)
    guided = ldmref.denoiser(model, PROMPT, guidance="autoguidance", guide=weaker)(x, 0.8)
    good, bad = (ldmref.denoiser(m, PROMPT, cfg_scale=1.0)(x, 0.8) for m in tiny)
    assert np.abs(guided - (bad + 2.0 * (good - bad))).max() < 1e-5 * np.abs(guided).max()


def test_the_gradient_flows_through_both():
    torch = pytest.importorskip("torch")
    pair = [model_of(preset("tiny"), seed, "torch") for seed in (0, 1)]
    x = torch.ones((1, 4, 8, 8), requires_grad=True)

    def gradient(denoise):
        (found,) = torch.autograd.grad(denoise(x, 0.8).sum(), x)
        return found

    options = {"guidance": "autoguidance", "guide": pair[1], "grad": True}
    found = gradient(ldmref.denoiser(pair[0], PROMPT, **options))
    good, bad = (gradient(ldmref.denoiser(m, PROMPT, cfg_scale=1.0, grad=True)) for m in pair)
    assert torch.allclose(found, 2.0 * good - bad, atol=1e-4)


# -- estimates and traces -------------------------------------------------------------------------


def test_the_estimate_knows_the_weaker_model(tiny, monkeypatch):
    model, weaker = tiny
    plan = modes.plan("txt2img", model, prompt=PROMPT, guide=weaker, **GUIDED)
    alone = modes.plan("txt2img", model, prompt=PROMPT, cfg_scale=1.0, seed=3, steps=3)
    both, one = plan.estimate(model), alone.estimate(model)
    assert both.evaluations == 2 * one.evaluations
    flops = 3 * weaker.family.work.flops(weaker.config, 16, 16)
    assert both.flops == one.flops + flops
    weights = weaker.estimate_memory(16, 16).weights
    assert both.memory == one.memory + weights["unet"] + weights["text_encoder"]
    by_itself = modes.plan("txt2img", model, prompt=PROMPT, guide=model, **GUIDED)
    assert by_itself.estimate(model).memory == one.memory
    monkeypatch.setattr(model, "max_memory", (both.memory + one.memory) // 2)
    alone.run(model)
    with pytest.raises(LdmrefError, match="more than the") as refused:
        plan.run(model)
    assert refused.value.code == "E-MEMORY"


def test_a_trace_holds_both_networks_and_is_judged(pair, tmp_path):
    """Without a false alarm; with another weaker model, its own layers differ."""
    model, weaker = pair
    plan = modes.plan("txt2img", model, prompt=PROMPT, guide=weaker, **GUIDED)
    record_trace(plan, model, tmp_path / "trace")
    trace = read_trace(tmp_path / "trace")
    network = model.config.denoiser.network
    assert {f"{network}.002", f"guide.{network}.002", "guide.text_encoder"} <= {*trace.calls}
    reference, guide = (model_of(m.config, seed) for seed, m in enumerate(pair))
    report = diff_traces(trace, reference, guide=guide)
    assert report.equal and not report.gaps and not report.notes
    rows = [row.name for row in report.rows]
    assert "guidance.000" in {name.partition("/")[0] for name in rows}
    assert any(name.startswith(f"guide.{network}.001/") for name in rows)
    without = diff_traces(trace, reference)
    assert without.verdict == "incomplete" and not without.faults
    wrong = diff_traces(trace, reference, guide=model_of(weaker.config, 2))
    assert wrong.faults and all(row.name.startswith("guide.") for row in wrong.faults)


@pytest.mark.parametrize(("change", "cause"), [
    (lambda entry, x: x["cond"], "the weaker model is not used"),
    (lambda entry, x: x["guide"], "the weaker model alone"),
    (lambda entry, x: x["cond"] + 2.0 * (x["guide"] - x["cond"]), "the two models are exchanged"),
    (lambda entry, x: x["cond"] + 2.0 * (x["cond"] - x["guide"]), "a weight larger by 1"),
])  # fmt: skip
def test_a_wrong_combination_is_named(tiny, tmp_path, change, cause):
    model, weaker = tiny
    plan = modes.plan("txt2img", model, prompt=PROMPT, guide=weaker, **GUIDED)
    record_trace(plan, model, tmp_path / "trace")
    trace = read_trace(tmp_path / "trace")
    entry = trace.find("guidance.001")
    name = next(iter(entry.outputs.values()))
    changed = change(entry, trace.read_inputs(entry))
    trace = replace(trace, tensors={**trace.tensors, name: changed})
    report = diff_traces(trace, model, guide=weaker)
    causes = {row.cause for row in report.faults if row.call == "guidance.001"}
    assert causes == {cause}


def test_a_recorded_run_branches_with_it_and_away_from_it(tiny):
    model, weaker = tiny
    trunk = {"mode": "txt2img", "prompt": PROMPT, "guide": weaker, **GUIDED}
    record = explore.record_run(model, guide=weaker, prompt=PROMPT, **GUIDED)
    same = explore.branch_run(model, trunk, 1)
    assert np.array_equal(record.x[-1], same.x[-1])
    other = explore.branch_run(model, trunk, 1, guidance="cfg")
    assert np.abs(other.x[-1] - same.x[-1]).max() > 1e-3
    stronger = {"name": "autoguidance", "weight": 3.0}
    other = explore.branch_run(model, trunk, 1, guidance=stronger)
    assert np.abs(other.x[-1] - same.x[-1]).max() > 1e-3


# -- what is refused, before weights are loaded ---------------------------------------------------


def changed(**parts):
    return replace(preset("tiny"), **parts)


TINY = preset("tiny")
MISFITS = {
    "family": (preset("sd3-tiny"), "its family is sd3, not latent-diffusion"),
    "prediction": (
        changed(scheduler=replace(TINY.scheduler, prediction_type="v")),
        "its prediction type is v, not eps",
    ),
    "latents": (
        changed(vae=replace(TINY.vae, scaling_factor=0.5)),
        "its vae.scaling_factor is 0.5, not 1.0",
    ),
    "levels": (
        changed(scheduler=replace(TINY.scheduler, beta_end=0.02)),
        "its largest noise of training is",
    ),
    "inputs": (
        changed(denoiser=replace(TINY.unet, in_channels=9)),
        "its number of input channels is 9, not 4",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_guide_of_another_kind_is_refused_in_a_line(kind):
    guide, text = MISFITS[kind]
    with pytest.raises(LdmrefError) as refused:
        modes.plan("txt2img", TINY, prompt=PROMPT, guide=guide, guidance="autoguidance")
    assert refused.value.code == "E-GUIDE" and refused.value.parameter == "guide"
    assert text in str(refused.value) and "\n" not in str(refused.value)


EMBEDS = np.zeros((1, 16, 32), np.float32)
REFUSED = [
    ({"guidance": "autoguidance"}, "guidance 'autoguidance' needs a second, weaker model"),
    ({"guide": TINY}, "a guide is for guidance 'autoguidance', not for 'cfg'"),
    ({"guide": TINY, "guidance": "rescale"}, "not for 'rescale'"),
    ({"guide": 3, "guidance": "autoguidance"}, "guide must be a model or a path, not 3"),
    ({"guide": "", "guidance": "autoguidance"}, "guide must be a model or a path, not ''"),
    (
        {"guide": TINY, "guidance": "autoguidance", "prompt": None, "prompt_embeds": EMBEDS},
        "a guide encodes the prompts itself",
    ),
]


@pytest.mark.parametrize(("change", "text"), REFUSED)
def test_a_wrong_request_is_refused_in_a_line(change, text):
    with pytest.raises(LdmrefError) as refused:
        modes.plan("txt2img", TINY, **{"prompt": PROMPT} | change)
    assert refused.value.code == "E-GUIDE" and "\n" not in str(refused.value)
    assert text in str(refused.value) and refused.value.hint


def test_a_missing_guide_is_a_missing_model():
    with pytest.raises(LdmrefError) as refused:
        modes.plan("txt2img", TINY, prompt=PROMPT, guide="no/such", guidance="autoguidance")
    assert refused.value.code == "E-MODEL"


def test_a_configuration_plans_and_does_not_run(tiny):
    """A plan needs no weights, and names what a run lacks."""
    plan = modes.plan("txt2img", TINY, prompt=PROMPT, guide=TINY, guidance="autoguidance")
    with pytest.raises(LdmrefError, match="there is only a configuration"):
        plan.run(tiny[0])


def test_a_guide_on_another_backend_is_refused(tiny):
    pytest.importorskip("torch")
    weaker = model_of(TINY, 1, "torch")
    with pytest.raises(LdmrefError, match="the guide 'tiny' is on <torch backend"):
        modes.txt2img(tiny[0], PROMPT, guide=weaker, **GUIDED)


def test_modes_without_a_guide_say_so():
    flow = preset("sd3-tiny")
    edit = {"prompt": PROMPT, "image": TEAL, "guidance": "autoguidance"}
    with pytest.raises(LdmrefError, match="needs a second, weaker model"):
        modes.plan("edit", flow, **edit)
    with pytest.raises(LdmrefError, match="needs a second, weaker model"):
        modes.plan("invert", TINY, **edit)


def test_a_negative_prompt_beside_a_guide_does_not_count_in_a_network_that_reads_the_scale():
    flux = ldmref.random_model("flux-tiny", backend="numpy")
    asked = {"prompt": PROMPT, "guide": flux, "guidance": "autoguidance", "seed": 1, "steps": 1}
    told = modes.txt2img(flux, **asked, negative_prompt="x")
    assert np.array_equal(told.latents, modes.txt2img(flux, **asked).latents)
    assert any("nothing reads the negative prompt" in line for line in told.warnings)


# -- a guide by its folder ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    """The folder of a model that may guide."""
    path = tmp_path_factory.mktemp("guides") / "weak"
    weaker = tiny[1]
    save_folder(path, weaker.config, weaker.params, [weaker.tokenizer], np.float32)
    return path


def test_a_folder_is_opened_when_the_request_is_read_and_a_plan_opens_nothing(
    tiny, folder, monkeypatch
):
    request = read_request("txt2img", {"prompt": PROMPT, "guide": str(folder), **GUIDED})
    assert request.guide.config == tiny[1].config
    assert request.guide.name == "weak"
    monkeypatch.setattr(guide, "open_checkpoint", None)
    monkeypatch.setattr(active_guide, "load_checkpoint", None)
    plan = plan_txt2img(TINY, request)
    again = read_request("txt2img", {"prompt": PROMPT, "guide": request.guide, **GUIDED})
    assert plan.job.guide is request.guide is again.guide


def test_a_folder_is_loaded_once_for_two_passes(tiny, folder, monkeypatch):
    model, weaker = tiny
    loaded = []
    load = active_guide.load_checkpoint
    monkeypatch.setattr(
        active_guide, "load_checkpoint", lambda *a, **k: loaded.append(a) or load(*a, **k)
    )
    asked = {"prompt": PROMPT, "upscale": 2.0, **GUIDED}
    plan = modes.plan("txt2img", model, guide=folder, **asked)
    assert not loaded
    found = plan.run(model)
    assert len(loaded) == 1
    want = modes.plan("txt2img", model, guide=weaker, **asked).run(model)
    np.testing.assert_array_equal(found.latents, want.latents)
    assert found.params["guide"]["name"] == want.params["guide"]["name"]
