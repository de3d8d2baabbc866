"""How norms of gradients are judged, with gradients that are given."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of

from ldmref.locate.pipeline import gradients
from ldmref.locate.pipeline.training import LEAST
from ldmref.math.objective import min_snr_weight
from ldmref.samplers.schedule import training_alphas_cumprod

torch = pytest.importorskip("torch")

from ldmref.locate.replay import autodiff  # noqa: E402

NAMES = ("unet.a.weight", "unet.a.bias")


def gradient_of(weight=3.0, bias=4.0, apart=0.0):
    """Return the gradient of two parameters with these norms, rounded by `apart` in each."""
    exact = {NAMES[0]: torch.tensor([[weight]]), NAMES[1]: torch.tensor([bias])}
    rounded = {name: x + apart for name, x in exact.items()}
    return gradients._LayerGradient(exact, rounded, [*NAMES])


def judged(got, gradient=None, total=0.5, counts=(1, 1), dtype="float32", clip=None):
    calls = {
        "train.000": {"input.target": np.zeros(1)},
        "train.000/unet.a": {"output.grad_norm": np.full((1, 1), got)},
    }
    params = {} if clip is None else {"diffusion": {"optimizer": {"clip_norm": clip}}}
    context = context_of(calls, dtype=dtype, params=params)
    layer = context.port.find("train.000", "unet.a")
    gradient = gradient_of() if gradient is None else gradient
    return gradients._judge_layer(context, layer, gradient, total, counts)


# -- one layer ------------------------------------------------------------------------------------


def test_the_norm_of_a_layer_is_that_of_all_its_parameters():
    gradient = gradient_of()
    assert gradient.norm == 5.0
    assert gradient.norm_of(NAMES[0]) == 3.0
    assert gradient_of(apart=0.125).floor == pytest.approx(math.hypot(0.125, 0.125) / 5.0)
    row = judged(5.0)
    assert (row.call, row.layer, row.kind, row.verdict) == (
        "train.000",
        "unet.a",
        "gradient",
        "equal",
    )
    assert row.error == 0.0
    assert row.allowed == max(LEAST, 16.0 * 2.0**-24)


def test_rounding_of_a_gradient_is_its_floor():
    floor = math.hypot(0.125, 0.125) / 5.0
    row = judged(5.0, gradient_of(apart=0.125))
    assert row.floor == pytest.approx(floor)
    assert row.allowed == pytest.approx(16.0 * floor)


@pytest.mark.parametrize(("apart", "verdict"), [(0.9, "equal"), (1.1, "differs")])
def test_a_norm_may_be_a_little_apart(apart, verdict):
    assert judged(5.0 * (1.0 + apart * LEAST)).verdict == verdict


@pytest.mark.parametrize(
    ("factor", "total", "counts", "word"),
    [
        (7.0, 0.5, (7, 1), "7 examples"),
        (3.0, 0.5, (7, 3), "3 evaluations"),
        (0.25, 4.0, (1, 1), "clipping"),
        (2.0**8, 0.5, (1, 1), "2^8,"),
        (2.0**16, 0.5, (1, 1), "2^16,"),
        (2.0**24, 0.5, (1, 1), "2^24,"),
        (0.5, 0.5, (1, 1), "halved"),
        (0.0, 0.5, (1, 1), "frozen"),
        (5.0, 0.5, (1, 1), "square"),
        (3.0 / 5.0, 0.5, (1, 1), "only the gradient of the weight"),
        (4.0 / 5.0, 0.5, (1, 1), "only the gradient of the bias"),
    ],
)
def test_the_cause_of_another_norm(factor, total, counts, word):
    row = judged(5.0 * factor, total=total, counts=counts)
    assert row.verdict == "differs"
    assert word in row.cause
    assert row.layer == "unet.a"


@pytest.mark.parametrize(
    ("factor", "total", "word"),
    [(2.0**7, 0.5, "2^"), (2.0**25, 0.5, "2^"), (2.0, 0.5, "clip"), (3.0, 0.5, "evaluations")],
)
def test_factors_that_are_not_known_have_no_such_cause(factor, total, word):
    assert word not in judged(5.0 * factor, total=total, counts=(7, 1)).cause


def test_gradients_are_clipped_to_the_norm_of_the_recipe():
    row = judged(5.0 * 0.125, total=4.0, clip=0.5)
    assert "clipping" in row.cause
    assert "0.5" in row.cause
    assert "clipping" not in judged(5.0 * 0.25, total=4.0, clip=0.5).cause
    assert "clipping" not in judged(5.0 * 2.0, total=0.25, clip=0.5).cause


@pytest.mark.parametrize(
    ("got", "total", "error", "verdict"),
    [
        (0.0, 2.0, 0.0, "equal"),
        (2.0 * LEAST, 2.0, LEAST, "equal"),
        (2.2 * LEAST, 2.0, 1.1 * LEAST, "differs"),
        (0.9 * LEAST, 0.0, 0.9 * LEAST, "equal"),
        (1.1 * LEAST, 0.0, 1.1 * LEAST, "differs"),
    ],
)
def test_a_layer_on_which_the_loss_does_not_depend_has_no_gradient(got, total, error, verdict):
    row = judged(got, gradient_of(0.0, 0.0), total)
    assert row.error == pytest.approx(error, rel=1e-12)
    assert (row.verdict, row.allowed) == (verdict, LEAST)
    assert (row.call, row.layer, row.kind) == ("train.000", "unet.a", "gradient")


# -- which gradient is that of a layer ------------------------------------------------------------


def found_gradient(layer, parameters=None, denoiser=(), text=(), low_text=True):
    attributes = {} if parameters is None else {"parameters": parameters}
    entry = SimpleNamespace(layer=layer, attributes=attributes)
    of = {name: torch.ones(1) for name in denoiser}
    texts = None if text is None else {name: torch.ones(2) for name in text}
    exact = SimpleNamespace(model=model_of("tiny"), denoiser=of, text=texts)
    low = SimpleNamespace(denoiser={"low": 1}, text={"low": 2} if low_text else None)
    found = gradients._find_gradient(entry, exact, low)
    return found if isinstance(found, str) else (found.parameters, found.exact, found.rounded)


def test_parameters_of_a_layer_are_those_under_its_name_or_those_recorded():
    names = ["unet.a.weight", "unet.a.bias", "unet.a.b.weight", "unet.ab.weight"]
    found, exact, rounded = found_gradient("unet.a", denoiser=names)
    assert found == names[:2]
    assert [*exact] == names
    assert rounded == {"low": 1}
    found, _, _ = found_gradient("unet.a", ["b.weight"], denoiser=names)
    assert found == ["unet.a.b.weight"]
    for encoder in ("text_encoder", "text_encoder_2"):
        own = [f"{encoder}.x.weight"]
        found, exact, rounded = found_gradient(f"{encoder}.x", denoiser=names, text=own)
        assert (found, [*exact], rounded) == (own, own, {"low": 2})


@pytest.mark.parametrize(
    ("layer", "more"),
    [
        ("vae.a", {}),
        ("transformer.a", {}),
        ("unet.c", {}),
        ("unet.a", {"parameters": []}),
        ("unet.a", {"parameters": ["weight", "scale"]}),
        ("unet.a", {"parameters": ["scale"]}),
    ],
)
def test_layers_whose_parameters_are_not_the_model_s(layer, more):
    found = found_gradient(layer, **more, denoiser=["unet.a.weight"], text=["vae.a.weight"])
    assert found == gradients.UNKNOWN_PARAMETERS


@pytest.mark.parametrize("more", [{"text": None}, {"text": ["x"], "low_text": False}])
def test_text_encoders_of_another_context_have_no_gradient(more):
    found = found_gradient("text_encoder.x", **more)
    assert "context" in found
    assert found != gradients.UNKNOWN_PARAMETERS


# -- the layers of a step -------------------------------------------------------------------------


def judged_layers(monkeypatch, norms, dtype="float32", evaluations=None, own=3.0):
    """Return the rows of layers with these norms; that of each gradient is `own` and 4."""
    made = []

    class Gradients:
        def __init__(self, model, found, computed, stored):
            made.append((computed, stored, model, found))
            names = [name for name in norms if name.startswith("unet")]
            self.model = model
            self.text = None
            self.denoiser = {f"{name}.weight": torch.tensor([own]) for name in names}

    parts = [SimpleNamespace(weights=np.ones(n)) for n in (2, 3)]
    parts = parts if evaluations is None else evaluations
    monkeypatch.setattr(autodiff, "StepGradients", Gradients)
    monkeypatch.setattr(gradients, "_evaluations", lambda context, entry: parts)
    calls = {"train.000": {"input.target": np.zeros(1), "output.grad_norm": np.ones(1)}}
    for name, norm in norms.items():
        calls[f"train.000/{name}"] = {"output.grad_norm": np.array([norm])}
    calls["train.000/unet.silent"] = {"output.x": np.array([1.0])}
    context = context_of(calls, dtype=dtype)
    rows = [*gradients.judge_gradients(context)]
    assert all(found[2] is context.model and found[3] is parts for found in made)
    return [(row.layer, row.verdict, row.cause or row.note) for row in rows], made


def test_gradients_are_computed_exactly_and_in_the_format_of_the_port(monkeypatch):
    rows, made = judged_layers(monkeypatch, {"unet.a": 3.0, "unet.b": 3.0}, "float16")
    assert rows == [("unet.a", "equal", ""), ("unet.b", "equal", "")]
    assert [x[:2] for x in made] == [("float64", "float16"), ("float16", "float16")]
    _, made = judged_layers(monkeypatch, {"unet.a": 3.0}, "float64")
    assert [x[:2] for x in made] == [("float64", "float64")]


def test_counts_and_the_total_norm_are_those_of_the_whole_step(monkeypatch):
    norms = {"unet.a": 15.0, "unet.b": 6.0, "unet.c": 3.0 / math.hypot(3.0, 3.0, 3.0)}
    rows, _ = judged_layers(monkeypatch, norms)
    words = ("5 examples", "2 evaluations", "clipping")
    assert [verdict for _, verdict, _ in rows] == ["differs"] * 3
    assert all(word in cause for word, (*_, cause) in zip(words, rows, strict=True))


def test_layers_that_are_not_known_have_a_row_for_each_reason(monkeypatch):
    norms = {"vae.x": 1.0, "text_encoder.x": 1.0, "unet.a": 3.0, "vae.y": 1.0}
    rows, _ = judged_layers(monkeypatch, norms)
    assert [(layer, verdict) for layer, verdict, _ in rows] == [
        ("unet.a", "equal"),
        ("", "not judged"),
        ("", "not judged"),
    ]
    assert rows[1][2].startswith("vae.x and 1 more: ")
    assert rows[2][2].startswith("text_encoder.x: ")


def test_a_step_that_cannot_be_repeated_has_one_row(monkeypatch):
    rows, made = judged_layers(monkeypatch, {"unet.a": 3.0, "unet.b": 3.0}, evaluations="why")
    assert (rows, made) == ([("", "not judged", "why")], [])


def test_without_torch_no_layer_is_judged(monkeypatch):
    monkeypatch.setattr(gradients, "find_spec", lambda name: None if name == "torch" else name)
    rows, made = judged_layers(monkeypatch, {"unet.a": 3.0})
    assert [(layer, verdict) for layer, verdict, _ in rows] == [("", "not judged")]
    assert "PyTorch" in rows[0][2]
    assert made == []


# -- the norm of all ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "clip", "verdict", "word"),
    [
        (13.0, None, "equal", ""),
        (13.0 * (1.0 + 0.9 * LEAST), None, "equal", ""),
        (13.0 * (1.0 + 1.1 * LEAST), None, "differs", ""),
        (17.0, None, "differs", "sum"),
        (1.0, None, "differs", "clipping"),
        (2.0, 2.0, "differs", "clipping"),
        (1.0, 2.0, "differs", ""),
    ],
)
def test_the_norm_over_the_layers(total, clip, verdict, word):
    calls = {
        "train.000": {"output.grad_norm": np.full((1, 1), total)},
        "train.000/a": {"output.grad_norm": np.array([5.0])},
        "train.000/b": {"output.grad_norm": np.array(12.0)},
    }
    params = {} if clip is None else {"diffusion": {"optimizer": {"clip_norm": clip}}}
    context = context_of(calls, selection={"layers": []}, params=params)
    entry = entry_of(context, "train.000")
    layers = [context.port.find("train.000", name) for name in "ab"]
    (row,) = gradients._judge_total(context, entry, layers)
    assert (row.verdict, row.kind) == (verdict, "grad_norm")
    assert word in row.cause
    assert "clipping" not in row.cause or word == "clipping"
    assert row.segment
    assert row.layer == ""


def test_a_step_without_the_norm_of_all_has_no_such_row():
    calls = {"train.000": {"output.x": np.ones(1)}}
    context = context_of(calls, selection={})
    assert not [*gradients._judge_total(context, entry_of(context, "train.000"), [])]


# -- the evaluations of a step --------------------------------------------------------------------


def evaluations(monkeypatch, sizes=(1, 2), steps=1, opened=(), params=None, **changes):
    """Return the evaluations of a step with 3 examples, or why they are not known."""
    calls = {f"unet.00{i}": {"input.sample": np.zeros((n, 1))} for i, n in enumerate(sizes)}
    more = {"target": np.arange(3.0), "timesteps": np.array([100, 500, 900])} | changes
    attributes = more.pop("attributes", {})
    step = {f"input.{name}": x for name, x in more.items() if x is not None}
    calls |= {f"train.00{i}": step or {"output.x": np.ones(1)} for i in range(steps)}
    context = context_of(calls, attributes={"train.000": attributes}, params=params or {})

    def open_network(model, port, call):
        assert (model, port) == (context.model, context.port)
        n = len(port.tensors[f"{call}//input.sample"])
        arguments = {"x": np.zeros(n)} | dict(opened)
        complete = arguments.pop("complete", True)
        return SimpleNamespace(call=call, complete=complete, arguments=arguments)

    monkeypatch.setattr(gradients, "open_network", open_network)
    return context, gradients._evaluations(context, entry_of(context, "train.000"))


def test_each_evaluation_has_its_part_of_the_batch(monkeypatch):
    attributes = {"evaluations": ["unet.000", "unet.001"], "prompts": ["a", "b", "c"]}
    _, found = evaluations(monkeypatch, steps=2, attributes=attributes)
    assert [part.network.call for part in found] == ["unet.000", "unet.001"]
    assert [part.target.tolist() for part in found] == [[0.0], [1.0, 2.0]]
    assert [part.weights.tolist() for part in found] == [[1 / 3], [1 / 3, 1 / 3]]
    assert [part.prompts for part in found] == [["a"], ["b", "c"]]


def test_prompts_of_another_number_are_not_those_of_the_examples(monkeypatch):
    _, found = evaluations(monkeypatch, attributes={"prompts": ["a", "b"]})
    assert [part.prompts for part in found] == [[], []]
    _, found = evaluations(monkeypatch)
    assert [part.prompts for part in found] == [[], []]


def test_weights_are_those_of_the_loss(monkeypatch):
    params = {"diffusion": {"objective": {"loss": "min_snr", "snr_gamma": 2.0}}}
    context, found = evaluations(monkeypatch, params=params)
    alphas = training_alphas_cumprod(context.config)[[100, 500, 900]]
    right = min_snr_weight(alphas, context.config.prediction_type, 2.0) / 3.0
    np.testing.assert_allclose(np.concatenate([part.weights for part in found]), right)
    params["diffusion"]["objective"]["loss"] = "other"
    assert "'other'" in evaluations(monkeypatch, params=params)[1]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"target": None}, "target"),
        ({"timesteps": None}, "target"),
        ({"steps": 2}, "denoiser's calls"),
        ({"sizes": (1, 1)}, "denoiser's calls"),
        ({"sizes": (1, 3)}, "denoiser's calls"),
        ({"attributes": {"evaluations": []}}, "denoiser's calls"),
        ({"attributes": {"evaluations": ["unet.000", "unet.009"]}}, "unet.009"),
        ({"opened": {"complete": False}}, "unet.000"),
        ({"opened": {"control": {"down": ()}}}, "ControlNets"),
        ({"opened": {"control": None}}, ""),
    ],
)
def test_evaluations_that_cannot_be_repeated_have_a_reason(monkeypatch, more, word):
    _, found = evaluations(monkeypatch, **more)
    assert isinstance(found, str) == bool(word)
    assert word in str(found)
