"""Reference images: SD3 whose transformer reads the latents of images behind the text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from referring_family import configure, fit, known_family, make, networks

import ldmref
from ldmref import explore, modes
from ldmref.apps.cli.main import main
from ldmref.apps.server.forms import unused_parameters
from ldmref.apps.server.inputs import read_values
from ldmref.backends import get_backend
from ldmref.batch.planning import plan_row
from ldmref.batch.rows import BatchRow
from ldmref.batch.tasks import generate_task, make_task
from ldmref.cases.network_cases import REFERENCES, count_text_tokens, network_case
from ldmref.errors import LdmrefError, ResourceError, UsageError
from ldmref.export.networks import export_network
from ldmref.families import CallSize, DeclaredReferences, NetworkInput
from ldmref.families.sd3 import SD3
from ldmref.io.native import save_folder
from ldmref.locate import diff_traces
from ldmref.locate.replay.networks import open_network
from ldmref.models import family, preset
from ldmref.models.conditioning import get_hidden_states
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.modes import embeddings
from ldmref.modes.record import compare_inputs, find_missing, replay, upgrade_record
from ldmref.modes.references import MAX_REFERENCES

ASKED = {"steps": 2, "seed": 1, "cfg_scale": 3.0}
SHAPES = (24, 16), (17, 40)  # of images that are given
RED, NOISE = (
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (h, w, 3), np.uint8))
    for i, (w, h) in enumerate(SHAPES)
)


@pytest.fixture
def referring():
    """Make the family known and return it, as a package declares it."""
    with known_family() as module:
        yield module.REFERRING


@pytest.fixture
def model(referring):
    return make()


def far(a, b):
    """Return the largest difference as a part of the largest number."""
    return float(np.abs(a - b).max() / np.abs(b).max())


# -- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_references_decide(referring, backend):
    model = make(get_backend(backend, dtype="float64"))
    without = modes.txt2img(model, "a cat", **ASKED)
    assert "references" not in without.params
    found = [
        modes.txt2img(model, "a cat", references=images, **ASKED).latents
        for images in ([RED], [NOISE], [RED, NOISE], [NOISE, RED])
    ]
    for i, latents in enumerate((*found, without.latents)):
        assert all(far(latents, other) > 1e-6 for other in found[:i])
    one = modes.txt2img(model, "a cat", references=RED, **ASKED)
    assert np.array_equal(one.latents, found[0])
    if backend == "torch":  # the same definition in the same precision
        own = modes.txt2img(
            make(get_backend("numpy", dtype="float64")), "a cat", references=[RED, NOISE], **ASKED
        )
        assert far(found[2], own.latents) < 1e-6  # of float32 latents


def test_each_prediction_reads_them(model):
    """At scale 0, only the negative prompt is read; at 1, only the prompt."""
    for scale in (0.0, 1.0):
        asked = ASKED | {"cfg_scale": scale}
        with_them = modes.txt2img(model, "a cat", references=[RED], **asked)
        assert far(with_them.latents, modes.txt2img(model, "a cat", **asked).latents) > 1e-6


def test_a_batch_is_its_rows(model):
    prompts = ["a cat", "a very long description of a dog"]
    asked = {"steps": 2, "cfg_scale": 3.0, "references": [RED, NOISE]}
    both = modes.txt2img(model, prompts, seed=[1, 2], batch_size=2, **asked)
    for i, prompt in enumerate(prompts):
        alone = modes.txt2img(model, prompt, seed=i + 1, **asked)
        assert far(both.latents[i], alone.latents[0]) < 1e-4  # float32, of other shapes
        assert both.params["references"] == alone.params["references"]


def test_other_modes_read_them(model):
    image = RED.resize((16, 16))
    mask = Image.fromarray(np.eye(16, dtype=np.uint8) * 255)
    for mode, more in (("img2img", {}), ("inpaint", {"mask": mask})):
        make_image = getattr(modes, mode)
        without, with_them = (
            make_image(model, "a cat", image=image, references=images, **more, **ASKED)
            for images in ((), [NOISE])
        )
        assert far(with_them.latents, without.latents) > 1e-6
    both = {"references": [RED], "upscale": 2.0, **ASKED}
    assert modes.txt2img(model, "a cat", **both).images[0].size == (32, 32)


def test_given_hidden_states_keep_them(model):
    text = modes.plan("txt2img", model, prompt="a cat", **ASKED).prepare(model)
    given = {}
    for name, part in zip(embeddings.EMBEDDINGS.values(), ("cond", "uncond"), strict=True):
        found = text.conditionings(slice(0, 1))[part]
        given[name.states] = np.asarray(get_hidden_states(found.context))
        given[name.pooled] = np.asarray(found.pooled)
    got = modes.txt2img(model, None, references=[RED], **given, **ASKED)
    want = modes.txt2img(model, "a cat", references=[RED], **ASKED)
    assert np.array_equal(got.latents, want.latents)


def test_a_weaker_model_reads_them(model):
    asked = ASKED | {"guidance": "autoguidance", "references": [RED]}
    weaker = replace_parameters(model)
    found = modes.txt2img(model, "a cat", guide=weaker, **asked)
    without = modes.txt2img(model, "a cat", guide=weaker, **asked | {"references": ()})
    assert far(found.latents, without.latents) > 1e-6
    run = modes.plan("txt2img", model, prompt="a cat", guide=weaker, **asked).prepare(model)
    parts = run.conditionings(slice(0, 1))
    assert np.array_equal(parts["guide"].more["tokens"], parts["cond"].more["tokens"])


def replace_parameters(model):
    params = init(model_spec(model.config), 1)
    first, *others = model.tokenizers
    return LatentDiffusion(model.backend, model.config, params, first, "", *others)


def test_they_are_fitted(model):
    run = modes.plan("txt2img", model, prompt="a cat", references=[RED, NOISE], **ASKED)
    assert [x.image.size for x in run.job.reference_inputs] == [(24, 16), (16, 40)]
    parts = run.prepare(model).conditionings(slice(0, 1))
    factor = model.config.vae.factor
    count = sum(w // factor * (h // factor) for w, h in ((24, 16), (16, 40)))
    assert {part.more["places"].shape for part in parts.values()} == {(1, count)}


def test_lengths_of_texts_leave_them_alone(monkeypatch, referring):
    """Padding of texts is cut, and references of as many tokens stay whole."""

    def condition(ops, config, states, pooled, size):
        part = SD3.text.condition(ops, config, states, pooled, size)
        rows, length = part.context.shape[:2]
        mask = np.tile(np.arange(length) < 5, (rows, 1)).astype(np.int64)
        return part._replace(more={"mask": ops.asarray(mask)})

    length = count_text_tokens(configure(), None)
    mask = NetworkInput("mask", "mask", (CallSize("batch"), CallSize("tokens")))

    def with_mask(config):
        for declared in networks(config):
            more = (mask,) if declared.name == "transformer" else ()
            yield replace(declared, inputs=(*declared.inputs, *more))

    changed = replace(
        referring,
        networks=lambda config: [*with_mask(config)],
        text=replace(SD3.text, condition=condition, multiple=8),
        references=DeclaredReferences(
            lambda model, *given: {"places": model.backend.asarray(np.ones((1, length)))}, 2, fit
        ),
    )
    monkeypatch.setattr(sys.modules["referring_declared"], "REFERRING", changed)
    family.find_family.cache_clear()
    model = make()
    run = modes.plan("txt2img", model, prompt="a cat", references=[RED], **ASKED).prepare(model)
    part = run.conditionings(slice(0, 1))["cond"]
    assert part.more["mask"].shape[1] == get_hidden_states(part.context).shape[1] == 8 < length
    assert part.more["places"].shape == (1, length)


# -- records --------------------------------------------------------------------------------------


def test_an_image_records_their_digests(model):
    found = modes.txt2img(model, "a cat", references=[RED, NOISE], **ASKED)
    digests = found.params["references"]
    head = f"{RED.size} ".encode()
    assert digests[0] == hashlib.sha256(head + np.asarray(RED).tobytes()).hexdigest()
    record = upgrade_record(found.params)
    assert find_missing(record, {}) == ["references"]
    again = modes.txt2img(model, **replay(record, {"references": [RED, NOISE]}))
    assert np.array_equal(again.latents, found.latents)
    assert not [*compare_inputs(record, again.params)]
    swapped = modes.txt2img(model, **replay(record, {"references": [NOISE, NOISE]}))
    [line] = compare_inputs(record, swapped.params)
    assert line.startswith("generated from another --reference 1:")


def test_a_branch_reads_those_of_its_trunk(model):
    asked = {"prompt": "a cat", "references": [RED], "steps": 3, "seed": 1}
    trunk = explore.record_run(model, **asked)
    branch = explore.branch_run(model, {"mode": "txt2img", **asked}, 1)
    assert (branch.x == trunk.x).all()


# -- interfaces -----------------------------------------------------------------------------------


@pytest.fixture
def folder(model, tmp_path, monkeypatch):
    """A folder with the model and two images, in which commands run."""
    monkeypatch.chdir(tmp_path)
    RED.save("red.png")
    NOISE.save("noise.png")
    save_folder(tmp_path / "model", model.config, model.params, model.tokenizers, np.float32)
    return tmp_path


def test_the_command_line_draws_and_draws_again(folder, capfd):
    model = ["-m", "model"]
    given = ["--reference", "red.png", "--reference", "noise.png"]
    size = ["--steps", "1", "--seed", "1"]
    assert main(["txt2img", "a cat", *model, *size, *given, "-o", "a.png"]) == 0
    assert main(["run", "--from", "a.png", *model]) == 2
    assert "add --reference IMAGE --reference IMAGE" in capfd.readouterr().err
    assert main(["run", "--from", "a.png", *model, *given, "-o", "b.png"]) == 0
    assert "another --reference" not in capfd.readouterr().err
    assert np.array_equal(*(np.asarray(Image.open(name)) for name in ("a.png", "b.png")))
    assert main(["run", "--from", "a.png", *model, *given[:2], "-o", "c.png"]) == 0
    assert "generated from another --reference 2" in capfd.readouterr().err
    assert main(["txt2img", "a cat", *model, "--reference", "gone.png"]) == 3
    assert "reference 1: 'gone.png' does not exist" in capfd.readouterr().err


def test_a_row_of_a_batch_names_files(folder):
    model = ldmref.load("model")
    asked = {"prompt": "a cat", "references": ["red.png", "noise.png"], **ASKED}
    planned = plan_row(BatchRow(1, None, "txt2img", asked), model.config, folder)
    digests = [hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in asked["references"]]
    assert planned.request["references"] == digests
    outcome = generate_task(model, make_task(planned))
    assert outcome.error is None
    want = modes.txt2img(model, "a cat", references=[RED, NOISE], **ASKED).images[0]
    assert np.array_equal(Image.open(io.BytesIO(outcome.images[0].png)), want)
    NOISE.save("red.png")
    with pytest.raises(LdmrefError, match="has changed"):
        make_task(planned)
    asked["references"] = ["red.png", "gone.png"]
    with pytest.raises(LdmrefError, match=r"gone\.png"):
        plan_row(BatchRow(1, None, "txt2img", asked), model.config, folder)


def to_base64(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_request_to_a_server_holds_them(model):
    body = {"prompt": "a cat", "references": [to_base64(RED), to_base64(NOISE)]}
    values = read_values("txt2img", json.loads(json.dumps(body)), 1_000_000)
    [one, two] = values["references"]
    assert np.array_equal(one, RED) and np.array_equal(two, NOISE)
    found = modes.txt2img(model, **values, **ASKED)
    want = modes.txt2img(model, "a cat", references=[RED, NOISE], **ASKED)
    assert np.array_equal(found.latents, want.latents)
    with pytest.raises(LdmrefError, match="references") as refused:
        read_values("txt2img", body | {"references": ["red.png"]}, 1_000_000)
    assert "as base64" in refused.value.hint
    with pytest.raises(LdmrefError, match="limit is 100"):
        read_values("txt2img", body, 100)
    with pytest.raises(UsageError, match=f"the limit is {MAX_REFERENCES}"):
        read_values("txt2img", {"references": ["no base64"] * (MAX_REFERENCES + 1)}, 100)


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd35-medium", "flux-dev", "flux-control-dev"])
def test_other_models_refuse_them(name):
    more = {"control_image": RED} if name == "flux-control-dev" else {}
    with pytest.raises(UsageError, match=f"^{name!r} reads no reference images") as refused:
        modes.plan("txt2img", preset(name), prompt="a cat", references=[RED], **more)
    assert "\n" not in str(refused.value)
    assert "references" in unused_parameters(preset(name))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([RED] * 3, "3 images as references, and 'sd3-tiny' reads at most 2 reference images"),
        ([RED] * 17, "17 images as references, the limit is 16"),
        ([RED, "gone.png"], "reference 2: 'gone.png' does not exist"),
        ([RED, 3], "reference 2: cannot read an image from int"),
        (np.zeros((2, 8, 8, 3), np.uint8), "reference 1: "),
    ],
)
def test_what_cannot_be_read_is_refused_before_weights_are_loaded(referring, given, text):
    with pytest.raises(LdmrefError) as refused:
        modes.plan("txt2img", configure(), prompt="a cat", references=given)
    assert str(refused.value).startswith(text) and "\n" not in str(refused.value)
    assert "references" not in unused_parameters(configure())


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"other": np.zeros((1, 2))}, "has no argument 'other' for its reference images"),
        ({"places": np.zeros((2, 2))}, r"'places' is \(2, 2\), not \(1, ...\)"),
    ],
)
def test_arrays_that_the_network_does_not_take_are_refused(monkeypatch, referring, arrays, text):
    declared = DeclaredReferences(lambda *given: arrays, 2, fit)
    changed = replace(referring, references=declared)
    monkeypatch.setattr(sys.modules["referring_declared"], "REFERRING", changed)
    family.find_family.cache_clear()
    with pytest.raises(UsageError, match=text):
        modes.txt2img(make(), "a cat", references=[RED], **ASKED)


# -- their number is an open size -----------------------------------------------------------------


def test_cases_and_graphs_have_them(model):
    declared = model.denoiser
    case = network_case("referring", declared)
    assert case.inputs["tokens"].shape[:2] == case.inputs["places"].shape == (2, REFERENCES)
    inputs = {x.name: x for x in export_network(declared).inputs}
    assert inputs["reference_tokens"].open_axes[1] == "references"
    assert inputs["reference_places"].open_axes == {0: "batch", 1: "references"}


@pytest.mark.parametrize("images", [(), (RED, NOISE)])
def test_a_recorded_call_is_computed_again(model, tmp_path, images):
    with ldmref.recording(model, tmp_path / "trace") as recorded:
        modes.txt2img(model, "a cat", references=images, **ASKED)
    trace = recorded.trace
    call = next(call for call in trace.calls if call.kind == "transformer")
    found = open_network(model, trace, call)
    assert found.complete
    assert [found.arguments[name] is None for name in ("tokens", "places")] == [not images] * 2


def test_a_recorded_run_has_no_difference(model, tmp_path):
    with ldmref.recording(model, tmp_path / "trace") as recorded:
        modes.txt2img(model, "a cat", references=[RED, NOISE], **ASKED)
    report = diff_traces(recorded.trace, model)
    assert not report.faults and report.counts()["equal"] > 500
    kinds = [row.kind for row in report.rows]
    assert report.equal and {"reference tokens", "reference places"} <= {*kinds}


# -- cost -----------------------------------------------------------------------------------------


def test_an_estimate_counts_the_pixels_of_references(model):
    """The denoiser works as for an image that is as much higher; the decoder does not."""
    size = {"width": 32, "height": 32, "prompt": "a cat", **ASKED}

    def estimate(**more):
        return modes.plan("txt2img", model, **{**size, **more}).estimate(model)

    work, alone = model.family.work, estimate()
    references = [Image.new("RGB", (32, 16)), Image.new("RGB", (16, 32))]
    with_references = estimate(references=references)
    calls = alone.evaluations
    assert with_references.evaluations == calls
    more = work.flops(model.config, 32, 64) - work.flops(model.config, 32, 32)
    assert with_references.flops - alone.flops == calls * more > 0
    assert with_references.seconds > alone.seconds


def test_memory_counts_the_pixels_of_references(model):
    """A limit between the two refuses the request with references alone."""
    pixels = 1024 * 1024
    needs = [model.estimate_memory(32, 32, reference_pixels=count) for count in (0, pixels)]
    assert needs[0].decoding == needs[1].decoding
    wide = model.family.work.activations(model.config, 32, 32 + pixels // 32)
    assert needs[1].sampling == 2 * model.backend.weight_bytes((1,), 0) * wide
    model.max_memory = (needs[0].peak_resident + needs[1].peak_resident) // 2
    asked = {"width": 32, "height": 32, "prompt": "a cat", **ASKED}
    modes.plan("txt2img", model, **asked).prepare(model)
    plan = modes.plan("txt2img", model, references=[Image.new("RGB", (1024, 1024))], **asked)
    with pytest.raises(ResourceError, match="max_memory"):
        plan.prepare(model)
