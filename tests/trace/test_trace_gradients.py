"""The norms of a training step's gradients are recomputed, and equal those of diffusers."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from small_models import SMALL_MODEL

import ldmref
from ldmref.locate import diff_traces
from ldmref.trace import build_trace, read_trace

torch = pytest.importorskip("torch")

from benchmarks.peers import peer_network  # noqa: E402
from ldmref.apps.cli.training_trace import tracing  # noqa: E402
from ldmref.models.params import flatten, unflatten  # noqa: E402
from ldmref.training import fine_tune, train  # noqa: E402
from ldmref.training.recipes.file import recipe_from_dict  # noqa: E402

CALL = "train.000"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for colour in ("red", "blue", "green"):
        image = Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8))
        image.save(folder / f"{colour}.png")
    return folder


@pytest.fixture(scope="module")
def base(images, tmp_path_factory):
    """Return the folder of a trained model, whose residual branches are no longer zero."""
    stage = {"optimizer": {"batch_size": 4, "warmup": 1}, "budget": {"steps": 5}}
    tables = {"data": {"source": str(images)}, "model": SMALL_MODEL, "progress": {"seconds": 0}}
    recipe = recipe_from_dict(tables | {"autoencoder": stage, "diffusion": stage})
    folder = tmp_path_factory.mktemp("base")
    train(recipe, folder)
    return folder / "model"


def record_step(base, images, folder, method="full", **diffusion):
    """Record the first step of a fine-tuning, as the command line does."""
    tables = {
        "base": str(base),
        "method": method,
        "data": {"source": str(images), "size": 16},
        "diffusion": {"budget": {"steps": 1}} | diffusion,
        "textual_inversion": {"word": "<new>", "initial": "red"},
        "progress": {"seconds": 0},
    }
    recipe = recipe_from_dict(tables)
    with tracing(str(folder / "t"), (0,), recipe, ldmref.load(base).config) as watch:
        fine_tune(recipe, folder / "run", observer=watch)
    return read_trace(folder / "t")


@pytest.fixture(scope="module")
def step(base, images, tmp_path_factory):
    """Return the trace of a step in two parts."""
    optimizer = {"batch_size": 4, "accumulation": 2, "clip_norm": 0.25}
    return record_step(base, images, tmp_path_factory.mktemp("step"), optimizer=optimizer)


@pytest.fixture(scope="module")
def model(base):
    return ldmref.load(base)


def gradients(trace, model):
    return [row for row in diff_traces(trace, model).rows if row.kind == "gradient"]


def changed(step, change):
    """Return the trace with its layers' norms changed: `change(layer, norm)`."""
    names = {part.outputs["grad_norm"]: part.layer for part in step.of_call(CALL) if part.layer}
    tensors = {
        name: change(names[name], np.array(x)) if name in names else x
        for name, x in step.tensors.items()
    }
    entries = [asdict(entry) for entry in step.entries]
    return build_trace(tensors, dict(step.manifest) | {"entries": entries})


def test_the_norms_of_all_layers_are_recomputed(step, model):
    rows = gradients(step, model)
    layers = {part.layer for part in step.of_call(CALL) if part.layer}
    assert {row.layer for row in rows} == layers
    assert {layer.partition(".")[0] for layer in layers} == {"unet", "text_encoder"}
    assert {row.verdict for row in rows} == {"equal"}
    assert max(row.error for row in rows) < 1e-5
    total = [row for row in diff_traces(step, model).rows if row.kind == "grad_norm"]
    assert [row.verdict for row in total] == ["equal"]


def test_the_norms_are_those_of_diffusers(step, model):
    pytest.importorskip("diffusers")
    from small_pipelines import embed_timesteps_exactly

    network = peer_network("unet", model).double().requires_grad_()
    embed_timesteps_exactly(network)
    entry = step.find(CALL)
    target = torch.tensor(step.read_inputs(entry)["target"]).double()
    outputs = []
    for call in entry.attributes["evaluations"]:
        given = step.read_inputs(step.find(call))
        roles = ("sample", "timestep", "encoder_hidden_states")
        outputs.append(network(*(torch.tensor(given[role]).double() for role in roles)).sample)
    (torch.cat(outputs) - target).square().mean().backward()
    recorded = {
        part.layer: float(step.read_outputs(part)["grad_norm"])
        for part in step.of_call(CALL)
        if part.layer.startswith("unet.")
    }
    squares = dict.fromkeys(recorded, 0.0)
    for name, parameter in network.named_parameters():
        squares["unet." + name.rpartition(".")[0]] += float(parameter.grad.square().sum())
    for layer, norm in recorded.items():
        assert abs(norm - squares[layer] ** 0.5) <= 1e-5 * norm, layer


LAYER = "unet.up_blocks.0.resnets.0.conv1"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda norm: 4.0 * norm, "the sum over the 4 examples instead of the mean"),
        (lambda norm: 2.0 * norm, "the sum over the 2 evaluations instead of the mean"),
        (lambda norm: 65536.0 * norm, "the loss is scaled by 2^16, as for float16"),
        (lambda norm: 0.0 * norm, "the layer is frozen"),
        (lambda norm: norm**2, "the square of the norm"),
        (lambda norm: 1.01 * norm, "scaled by 1.01"),
    ],
)
def test_a_wrong_norm_is_found(step, model, change, cause):
    port = changed(step, lambda layer, norm: change(norm) if layer == LAYER else norm)
    wrong = {row.layer: row.cause for row in gradients(port, model) if row.verdict != "equal"}
    assert wrong == {LAYER: cause}


def test_clipped_gradients_are_named(step, model):
    total = float(step.read_outputs(step.find(CALL))["grad_norm"])
    assert total > 0.25
    port = changed(step, lambda layer, norm: norm * 0.25 / total)
    causes = {row.cause for row in gradients(port, model)}
    assert causes == {"after clipping to the norm 0.25"}
    total = [row for row in diff_traces(port, model).rows if row.kind == "grad_norm"]
    assert [row.verdict for row in total] == ["differs"]


def test_the_loss_of_the_recipe_is_read(base, images, model, tmp_path):
    trace = record_step(base, images, tmp_path, objective={"loss": "min_snr", "snr_gamma": 2.0})
    report = diff_traces(trace, model)
    assert report.equal
    assert {row.verdict for row in gradients(trace, model)} == {"equal"}
    recipe = trace.manifest["params"]["recipe"]
    tables = replace(trace, manifest={**trace.manifest, "params": tomllib.loads(recipe)})
    assert {row.verdict for row in gradients(tables, model)} == {"equal"}
    params = {"recipe": recipe.replace("min_snr", "simple")}
    other = replace(trace, manifest={**trace.manifest, "params": params})
    assert all(row.verdict == "differs" for row in gradients(other, model))


def test_other_weights_give_other_gradients(step, model):
    flat = flatten(model.params["unet"])
    name = "mid_block.resnets.0.conv1.weight"
    other = model.with_params({"unet": unflatten(flat | {name: 1.1 * flat[name]})}, model.backend)
    wrong = [row.layer for row in gradients(step, other) if row.verdict == "differs"]
    assert len(wrong) > 20


def test_a_gradient_on_which_the_loss_does_not_depend(step, model):
    """The model's last convolution of a block is zero, and the port's gradient before it is not."""
    flat = flatten(model.params["unet"])
    block = "up_blocks.1.resnets.1"
    zero = {f"{block}.conv2.weight": 0.0 * flat[f"{block}.conv2.weight"]}
    other = model.with_params({"unet": unflatten(flat | zero)}, model.backend)
    (row,) = [row for row in gradients(step, other) if row.layer == f"unet.{block}.conv1"]
    assert row.verdict == "differs"


@pytest.mark.parametrize("method", ["lora", "textual_inversion"])
def test_parameters_that_the_model_does_not_have(base, images, model, method, tmp_path):
    trace = record_step(base, images, tmp_path, method)
    (row,) = gradients(trace, model)
    assert row.verdict == "not judged"
    assert "its parameters are not those of the model" in row.note


def test_prompts_that_were_not_recorded(step, model):
    entries = [
        replace(e, attributes={k: x for k, x in e.attributes.items() if k != "prompts"})
        for e in step.entries
    ]
    port = replace(step, entries=tuple(entries))
    rows = gradients(port, model)
    judged = [row for row in rows if row.verdict == "equal"]
    assert judged and all(row.layer.startswith("unet.") for row in judged)
    (left,) = [row for row in rows if row.verdict == "not judged"]
    assert left.note.startswith("text_encoder.")
    assert left.note.endswith("the recorded context is not that of recorded prompts")


def test_calls_that_were_not_recorded(step, model):
    tensors = {name: x for name, x in step.tensors.items() if name.startswith(CALL)}
    rows = gradients(build_trace(tensors), model)
    assert [row.verdict for row in rows] == ["not judged"]
    assert rows[0].note == "the denoiser's calls of this step were not recorded"


def test_without_torch_the_reason_is_given(step, model, monkeypatch):
    monkeypatch.setattr("ldmref.locate.pipeline.gradients.find_spec", lambda name: None)
    (row,) = gradients(step, model)
    assert row.verdict == "not judged" and "pip install torch" in row.note
