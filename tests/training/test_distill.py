"""Distillation: what a flow map must predict, the teacher's runs, and the model that is written."""

from __future__ import annotations

import math
import tomllib
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.backends import get_backend
from ldmref.errors import Cancelled, UsageError
from ldmref.io.native import save_folder
from ldmref.math import gaussian_average_velocity
from ldmref.models.networks import model_spec
from ldmref.models.params import Params, flatten, init, tree_map
from ldmref.models.presets import preset
from ldmref.samplers import FLOW, VE, ancestral, get_guidance, guided_denoiser, sample
from ldmref.samplers.denoiser import TO_X0

torch = pytest.importorskip("torch")
from ldmref.datasets import DataConfig, load_dataset, summarize  # noqa: E402
from ldmref.training.distill import trajectories  # noqa: E402
from ldmref.training.distill.regression import (  # noqa: E402
    HALVES,
    QUARTERS,
    WHOLE,
    StepBatch,
    arrive,
    choose_own_states,
    choose_steps,
    distillation_trainer,
    mean_prediction,
    reach_own_states,
)
from ldmref.training.distill.student import (  # noqa: E402
    DistillAdapter,
    check_teacher,
    initial_student,
    make_student,
)
from ldmref.training.distill.trajectories import (  # noqa: E402
    choose_prompts,
    stored_trajectories,
)
from ldmref.training.finetune.finetuning_run import check_base, fine_tune  # noqa: E402
from ldmref.training.finetune.recipe import DistillConfig, FineTuneRecipe  # noqa: E402
from ldmref.training.finetune.stage import RecordingBackend  # noqa: E402
from ldmref.training.recipes.file import read_recipe, recipe_from_dict, to_toml  # noqa: E402

KINDS = ["eps", "v", "x0", "flow"]
MEAN, DEVIATION = 0.4, 1.5


# -- what a step must predict ----------------------------------------------------------------------


def scales(kind, phi):
    """Return alpha and sigma at an angle: on the circle, or on the line of flow matching."""
    a, s = math.cos(phi), math.sin(phi)
    return (a / (a + s), s / (a + s)) if kind == "flow" else (a, s)


def gaussian_state(quantile, alpha, sigma):
    """Return the state of a path of the exact ODE of Gaussian data, by its quantile."""
    return alpha * MEAN + quantile * math.hypot(alpha * DEVIATION, sigma)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_exact_steps_arrives_at_the_exact_state(kind):
    """With the product's own denoiser and Euler's step: this is the group property, too."""
    rng = np.random.default_rng(0)
    path = FLOW if kind == "flow" else VE
    for count in (1, 2, 5):
        angles = [*np.sort(rng.uniform(0.05, 1.5, count))[::-1].tolist(), 0.0]
        quantile = rng.normal()
        levels = [path.level(math.tan(phi)) for phi in angles]

        def network(xt, sigma, names, interval, quantile=quantile, path=path):
            start, end = (scales(kind, math.atan(path.ratio(x))) for x in (sigma, interval.end))
            there = np.full_like(xt, gaussian_state(quantile, *end))
            return [mean_prediction(kind, xt, there, start, end)[0] for _ in names]

        denoise = guided_denoiser(network, kind, get_guidance("cfg"), 1.0, path=path)
        alpha, sigma = scales(kind, angles[0])
        x = np.full((1, 1), gaussian_state(quantile, alpha, sigma)) / (alpha if path is VE else 1.0)
        *_, last = sample(denoise, x, levels, ancestral(), path=path)
        assert last.x[0, 0] == pytest.approx(gaussian_state(quantile, 1.0, 0.0), abs=1e-12)


def test_v_is_the_mean_velocity_of_an_arc():
    """v* = (cos(d) x - x') / sin(d), from `few steps` to the whole arc."""
    x, end = np.asarray([[0.7]]), np.asarray([[-1.2]])
    for phi, psi in ((1.5443, 0.0), (1.1, 0.4), (0.3, 0.2)):
        d = phi - psi
        got, k, length = mean_prediction("v", x, end, scales("v", phi), scales("v", psi))
        assert got == pytest.approx((math.cos(d) * x - end) / math.sin(d), rel=1e-13)
        assert k == pytest.approx(1.0) and length == pytest.approx(math.sin(d))


def test_a_velocity_is_that_of_the_exact_map():
    t, r, quantile = 0.8, 0.3, 0.9
    x, end = (np.full((1, 1), gaussian_state(quantile, 1 - s, s)) for s in (t, r))
    got, _, _ = mean_prediction("flow", x, end, (1 - t, t), (1 - r, r))
    want = gaussian_average_velocity(x, t, r, MEAN, DEVIATION**2)
    assert got == pytest.approx(want, rel=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_step_is_the_teachers_prediction(kind):
    """With the exact denoiser of the Gaussian; the difference is of first order in the step."""
    quantile, phi = 0.9, 0.9
    alpha, sigma = scales(kind, phi)
    x = np.full((1, 1), gaussian_state(quantile, alpha, sigma))
    errors = []
    for d in (1e-2, 1e-3):
        to = scales(kind, phi - d)
        end = np.full((1, 1), gaussian_state(quantile, *to))
        y, _, _ = mean_prediction(kind, x, end, (alpha, sigma), to)
        level = sigma if kind == "flow" else alpha**2
        variance = (alpha * DEVIATION) ** 2 + sigma**2
        exact = MEAN + alpha * DEVIATION**2 / variance * (x - alpha * MEAN)
        errors.append(abs(TO_X0[kind](x, y, level) - exact)[0, 0])
    assert errors[0] < 0.02 and errors[1] == pytest.approx(errors[0] / 10, rel=0.05)


def test_shares_of_the_steps():
    n, steps = 100_000, 20
    first, last = choose_steps(np.random.default_rng(0), n, steps)
    assert (first < last).all() and first.min() == 0 and last.max() == steps
    known = {(0, 20): WHOLE, (0, 10): HALVES[0], (10, 20): HALVES[1]}
    known |= {(i, i + 5): share for i, share in zip(range(0, 20, 5), QUARTERS, strict=True)}
    drawn = 1.0 - sum(known.values())
    for (i, j), share in known.items():
        share += drawn / steps / (steps - i)
        found = ((first == i) & (last == j)).mean()
        assert abs(found - share) < 5 * math.sqrt(share / n), (i, j)  # five standard errors
    assert len({*zip(first.tolist(), last.tolist(), strict=True)}) == steps * (steps + 1) // 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_leads_back_to_the_end(kind):
    rng = np.random.default_rng(0)
    x, end = rng.standard_normal((2, 5, 3))
    start, to = (
        tuple(np.asarray(s) for s in zip(*(scales(kind, p) for p in angles), strict=True))
        for angles in (np.linspace(0.9, 1.5, 5), np.linspace(0.0, 0.8, 5))
    )
    y, _, _ = mean_prediction(kind, x, end, start, to)
    assert arrive(kind, x, y, start, to) == pytest.approx(end, abs=1e-13)


def test_own_states_are_reached_in_steps_as_long_as_the_next():
    n = 100_000
    first, last = choose_steps(np.random.default_rng(0), n, 20)
    jumps = choose_own_states(np.random.default_rng(1), first, last, 0.6)
    length = last - first
    own = jumps > 0
    assert (first[own] == jumps[own] * length[own]).all() and jumps.max() == 3
    possible = (first > 0) & (first % length == 0) & (first // length <= 3)
    share = own.sum() / possible.sum()
    assert not own[~possible].any() and abs(share - 0.6) < 5 * math.sqrt(0.24 / possible.sum())
    assert not choose_own_states(np.random.default_rng(1), first, last, 0.0).any()


# -- the student -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "flux3-tiny"])
def test_a_student_begins_as_its_teacher(name):
    """For every end of the step; the embedding of the second time is zero."""
    teacher = ldmref.random_model(name, backend="numpy")
    config = make_student(teacher.config, DistillConfig())
    network = config.denoiser.network
    params = initial_student(config, tree_map(np.asarray, teacher.params[network]), 3)
    student = ldmref.models.LatentDiffusion(
        teacher.backend, config, {**teacher.params, network: params}, teacher.tokenizer
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *teacher.latent_shape(16, 16))).astype(np.float32)
    context = modes.text.encode_conditioning(teacher, ["a cat", "two dogs"], (16, 16))
    t = np.asarray([900.0, 400.0], np.float32)
    want = teacher.predict(x, t, context)
    for t_next in (None, t, np.asarray([0.0, 100.0], np.float32)):
        more = {} if t_next is None else {"t_next": t_next}
        got = student.predict(x, t, context._replace(more={**context.more, **more}))
        assert (got == want).all()
    first = [name for name in flatten(params) if name not in flatten(teacher.params[network])]
    assert any(np.abs(flatten(params)[name]).max() > 0 for name in first)


def test_libraries_agree_on_a_map_that_was_trained():
    """With an embedding that is not zero; whole timesteps are allowed, and None is t itself."""
    config = make_student(preset("tiny"), DistillConfig())
    params = init(model_spec(config), 5)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 8, 8)).astype(np.float32)
    words = ldmref.random_model("tiny", backend="numpy").tokenizer
    found = []
    for backend in ("numpy", "torch"):
        model = ldmref.models.LatentDiffusion(get_backend(backend), config, params, words)
        context = modes.text.encode_conditioning(model, ["a cat", "two dogs"], (16, 16))
        rows = []
        for t_next in (None, np.asarray([900, 400]), np.asarray([500, 0])):
            more = {} if t_next is None else {"t_next": t_next}
            used = context._replace(more={**context.more, **more})
            rows.append(model.backend.to_numpy(model.predict(x, np.asarray([900, 400]), used)))
        found.append(np.stack(rows))
    assert np.abs(found[0] - found[1]).max() < 1e-4 * np.abs(found[0]).max()
    assert (found[0][0] == found[0][1]).all()
    assert np.abs(found[0][2] - found[0][1]).max() > 1e-3 * np.abs(found[0]).max()


def make_base(folder, **changes):
    """Write a small model with its own random weights; its runs are guided."""
    model = ldmref.random_model("tiny", backend="numpy")
    config = replace(model.config, scheduler=replace(model.config.scheduler, **changes))
    if config.scheduler.path is FLOW:
        flow = {"sampler": "euler", "spacing": "flow", "final_sigma": "zero"}
        config = replace(config, scheduler=replace(config.scheduler, **flow))
    save_folder(folder, config, Params(tree_map(np.asarray, dict(model.params))), [model.tokenizer])
    return folder


@pytest.fixture(params=["eps", "v", "flow"])
def kind(request):
    return request.param


@pytest.fixture
def settings(tmp_path, images):
    """A recipe of a few runs, some tables replaced."""

    def settings(prediction_type="v", **changes):
        base = tmp_path / f"base-{prediction_type}"
        if not base.exists():
            make_base(base, prediction_type=prediction_type)
        stage = {"optimizer": {"batch_size": 4, "warmup": 1}, "budget": {"steps": 4}}
        tables = {
            "base": str(base),
            "method": "distill",
            "data": {"source": str(images), "size": 16},
            "distill": {"trajectories": 6, "steps": 4},
            "diffusion": stage,
            "progress": {"seconds": 0},
        }
        return recipe_from_dict(tables | changes)

    return settings


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(trajectories, "SHARD", 4)
    monkeypatch.setattr(trajectories, "BATCH", 2)


def make_runs(recipe, folder, dtype="float32", **arguments):
    teacher = ldmref.load(recipe.base, backend=RecordingBackend("cpu", dtype))
    data = load_dataset(recipe.data)
    rest = {"log": lambda line: None} | arguments
    folder.mkdir(exist_ok=True)
    return teacher, stored_trajectories(recipe, folder, teacher, data, summarize(data), **rest)


def test_runs_are_those_of_txt2img(settings, small_files, tmp_path, kind):
    recipe = settings(kind)
    teacher, runs = make_runs(recipe, tmp_path / "runs")
    assert len(runs.prompts) == 6 and len(runs.levels.t) == 5
    seed = trajectories.FIRST_SEED + 5
    request = {"steps": 4, "cfg_scale": recipe.distill.cfg_scale, "sampler": recipe.distill.sampler}
    request |= {"schedule": recipe.distill.schedule, "seed": seed}
    made = modes.txt2img(teacher, runs.prompts[5], **request).latents
    got = runs.read(np.asarray([5]), np.asarray([4]))
    limit = 2.0**-11 * np.abs(made).max() + 1e-5  # rounded to float16
    assert np.abs(got * scale_of_the_last(runs) - made).max() < limit
    spread = runs.levels.alpha**2 + runs.levels.sigma**2
    assert kind == "flow" or spread == pytest.approx(np.ones(5))
    assert recipe.distill.cfg_scale == 2.0 and runs.levels.t[0] > 900


def scale_of_the_last(runs):
    """Return the factor from the last state to latents, which are in unit variance of noise."""
    return 1.0 / math.hypot(runs.levels.alpha[-1], runs.levels.sigma[-1])


def read_all(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.glob("trajectories-*"))}


def test_interrupted_runs_continue_with_the_next_file(settings, small_files, tmp_path):
    recipe = settings()
    make_runs(recipe, tmp_path / "once")
    cancel = Event()
    stop = {"cancel": cancel, "log": lambda line: cancel.set()}
    with pytest.raises(Cancelled, match="after 4 runs"):
        make_runs(recipe, tmp_path / "twice", **stop)
    assert len(read_all(tmp_path / "twice")) == 1
    make_runs(recipe, tmp_path / "twice")
    assert read_all(tmp_path / "once") == read_all(tmp_path / "twice")


def test_a_longer_series_begins_with_the_shorter(settings, small_files, tmp_path):
    longer = replace(settings(), distill=replace(settings().distill, trajectories=11))
    make_runs(settings(), tmp_path / "out")
    before = read_all(tmp_path / "out")
    _, runs = make_runs(longer, tmp_path / "out")
    after = read_all(tmp_path / "out")
    assert len(runs.prompts) == 11 and len(after) == 3
    assert all(after[name] == content for name, content in before.items())
    other = replace(settings(), distill=replace(settings().distill, cfg_scale=3.0))
    make_runs(other, tmp_path / "out")
    assert not {*read_all(tmp_path / "out")} == {*after}  # another guidance, other files


def test_prompts_are_captions_of_images_that_are_not_held_out(settings):
    recipe = settings()
    data = load_dataset(replace(recipe.data, held_out=2))
    [left] = np.flatnonzero(data.weights)
    shown = {data.caption(int(left), np.random.default_rng(seed)) for seed in range(20)}
    prompts = choose_prompts(recipe, data, range(400))
    assert {*prompts} - {""} <= shown
    dropped = recipe.diffusion.objective.caption_dropout
    assert abs(prompts.count("") / 400 - dropped) < 5 * math.sqrt(dropped / 400)
    assert prompts[7:9] == choose_prompts(recipe, data, range(7, 9))


# -- the whole recipe ------------------------------------------------------------------------------


def test_the_loss_falls_and_the_student_follows_its_teacher(settings, tmp_path, kind):
    """After training, one step ends nearer to the end of the teacher's four than before."""
    table = {"optimizer": {"batch_size": 8, "warmup": 1, "learning_rate": 3e-3, "ema_decay": 0.9}}
    recipe = settings(kind, diffusion=table | {"budget": {"steps": 60}})
    teacher, runs = make_runs(recipe, tmp_path / "runs")
    ops = teacher.backend
    adapter = DistillAdapter(recipe, teacher, lambda i, rng: "")
    trainer = distillation_trainer(recipe, adapter, runs, ops)

    def distance(params):
        student = adapter.adapted(ops, tree_map(ops.asarray, params))
        seeds = [trajectories.FIRST_SEED + i for i in range(6)]
        made = modes.txt2img(student, runs.prompts, seed=seeds, steps=1).latents
        ends = runs.read(np.arange(6), np.full(6, 4)) * scale_of_the_last(runs)
        return float(np.sqrt(np.mean((made - ends) ** 2)))

    before = distance(adapter.initial)
    losses = [done.loss for done in trainer.run()]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    assert distance(trainer.ema_params()) < 0.9 * before


def test_equal_seeds_give_equal_bytes_and_resumed_equals_uninterrupted(
    settings, small_files, tmp_path
):
    once = fine_tune(settings(), tmp_path / "once")
    again = fine_tune(settings(), tmp_path / "again")
    cancel = Event()
    with pytest.raises(Cancelled):
        fine_tune(settings(), tmp_path / "twice", on_progress=lambda p: cancel.set(), cancel=cancel)
    twice = fine_tune(settings(), tmp_path / "twice")
    weights = {(folder / "model.safetensors").read_bytes() for folder in (once, again, twice)}
    assert len(weights) == 1
    other = fine_tune(settings(seed=1), tmp_path / "other")
    assert (other / "model.safetensors").read_bytes() not in weights


def test_own_states_are_those_of_sampling(settings, tmp_path, kind):
    """Of a student that has learned something, in two and in four steps from the same noise."""
    recipe = settings(kind)
    teacher, runs = make_runs(recipe, tmp_path / "runs")
    adapter = DistillAdapter(recipe, teacher, lambda i, rng: "")
    params = init({name: x.shape for name, x in flatten(adapter.initial).items()}, 3)
    student = adapter.adapted(teacher.backend, tree_map(teacher.backend.asarray, params))
    numbers, jumps = np.asarray([1, 4, 2, 5]), np.asarray([1, 3, 0, 2])
    first, last = np.asarray([2, 3, 2, 2]), np.asarray([4, 4, 4, 3])
    prompts = [runs.prompts[i] for i in numbers]
    x = teacher.backend.asarray(runs.read(numbers, np.where(jumps, 0, first)))
    batch = StepBatch(numbers, prompts, x, x, first, last, jumps)
    condition = modes.text.encode_conditioning(student, prompts, (16, 16))
    with torch.no_grad():
        found = reach_own_states(student, runs, batch, condition).x
    assert (found[2] == x[2]).all()
    for row in (0, 1, 3):
        steps = 4 // (last - first)[row]
        plan = modes.plan(
            "txt2img",
            student,
            prompt=prompts[row],
            steps=int(steps),
            seed=trajectories.FIRST_SEED + int(numbers[row]),
        )
        states = trajectories.list_states(plan.prepare(student).trajectory(slice(0, 1)))
        want = states[0, jumps[row]].astype(np.float64)
        limit = 2.0**-10 * np.abs(want).max()  # the first and this state are rounded to float16
        assert np.abs(found[row].numpy() - want).max() < 4 * limit


def test_a_student_may_begin_with_a_map(settings, tmp_path):
    first = fine_tune(settings(), tmp_path / "first")
    table = {"trajectories": 6, "steps": 4, "initial": str(first)}
    recipe = settings(distill=table)
    teacher = ldmref.load(recipe.base, backend="numpy")
    adapter = DistillAdapter(recipe, teacher, lambda i, rng: "")
    network = adapter.config.denoiser.network
    begun = flatten(adapter.initial[network])
    written = flatten(ldmref.load(first, backend="numpy").params[network])
    assert begun.keys() == written.keys()
    assert all((begun[name] == x).all() for name, x in written.items())
    for other in (recipe.base, "emoji-map"):
        refused = replace(recipe, distill=replace(recipe.distill, initial=other))
        with pytest.raises(UsageError, match="is not a flow map of the same base"):
            check_base(teacher.config, refused)


def test_accumulated_parts_are_the_whole_batch(settings, tmp_path):
    recipe = settings()
    teacher, runs = make_runs(recipe, tmp_path / "runs", "float64")
    ops = teacher.backend
    losses = []
    for parts in (1, 2):
        optimizer = replace(recipe.diffusion.optimizer, accumulation=parts)
        stage = replace(recipe.diffusion, optimizer=optimizer)
        adapter = DistillAdapter(recipe, teacher, lambda i, rng: "")
        trainer = distillation_trainer(replace(recipe, diffusion=stage), adapter, runs, ops)
        losses.append([done.loss for done in trainer.run()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.fixture
def student(settings, tmp_path, kind):
    return ldmref.load(fine_tune(settings(kind), tmp_path / "out"))


def test_the_written_model_is_a_flow_map(student, tmp_path, kind):
    """It jumps by default, from noise and from middle levels, and its guidance is baked in."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (0, 0, 8, 16))
    changed = {"image": image, "strength": 0.5, "steps": 4}
    requests = {"txt2img": {}, "img2img": changed, "inpaint": changed | {"mask": mask}}
    assert student.config.denoiser.is_flow_map and student.config.defaults.steps == 4
    for mode, request in requests.items():
        with ldmref.recording(student, tmp_path / mode) as recorder:
            made = getattr(modes, mode)(student, "a cat", seed=1, **request)
        assert made.params["cfg_scale"] == 1.0 and np.isfinite(made.latents).all()
        trace = recorder.trace
        entries = [trace.find(c, "") for c in trace.calls if c.startswith("unet.")]
        times, ends = (
            [float(trace.tensors[e.inputs[role]].ravel()[0]) for e in entries]
            for role in ("timestep", "target_timestep")
        )
        assert len(times) == (4 if mode == "txt2img" else 2)
        assert ends[:-1] == times[1:] and ends[-1] <= 1.0 < times[-1]


@pytest.mark.parametrize("kind", ["flow"], indirect=True)
def test_an_edit_between_equal_prompts_changes_nothing(student):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    found = modes.edit(student, "a dog", image, "a dog", steps=4, seed=1).latents
    known = student.encode_image(np.asarray(image).transpose(2, 0, 1)[None] / 127.5 - 1.0)
    assert np.abs(found - known).max() < 1e-5


@pytest.mark.parametrize("kind", ["v"], indirect=True)
def test_guidance_is_refused_in_one_line(student):
    baked = "guidance is baked into"
    refused = {"cfg_scale": (2.5, baked), "negative_prompt": ("blur", baked)}
    for name, (value, message) in (refused | {"sampler": ("heun", "is no flow map")}).items():
        with pytest.raises(UsageError, match=message) as caught:
            modes.txt2img(student, "a cat", **{name: value})
        assert "\n" not in str(caught.value) and caught.value.hint


REFUSED = {
    "no second time": ("sd3-tiny", {"sampler": "euler"}),
    "not functions of their noise": ("tiny", {"sampler": "euler_a"}),
    "multiple of 4, not 6": ("tiny", {"steps": 6}),
    "it is a flow map": ("flux3-klein", {"sampler": "euler"}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_teachers_that_are_refused(message):
    name, table = REFUSED[message]
    with pytest.raises(UsageError, match=message) as caught:
        check_teacher(preset(name), DistillConfig(**table))
    assert caught.value.hint and "\n" not in str(caught.value)


def test_bases_whose_text_encoders_are_not_trained_are_teachers():
    recipe = FineTuneRecipe(data=DataConfig("images", 256))
    check_base(preset("flux3-tiny"), replace(recipe, method="distill"))
    config = preset("ldm-text2img-large")
    check_base(config, replace(recipe, method="distill"))
    with pytest.raises(UsageError, match="are not trained"):
        check_base(config, replace(recipe, method="full"))


def test_a_distillation_is_not_traced(capsys):
    assert main(["finetune", "distill", "--trace", "steps"]) == 2
    assert "steps of a distillation are not recorded" in capsys.readouterr().err


def test_the_shipped_recipe():
    recipe = read_recipe("distill")
    assert (recipe.method, recipe.base, recipe.data.source) == ("distill", "emoji", "scenes")
    distill = recipe.distill
    assert (distill.cfg_scale, distill.sampler, distill.schedule) == (2.5, "dpmpp_2m", "trailing")
    check_base(recipe.read_base_config(), recipe)
    assert recipe_from_dict(tomllib.loads(to_toml(recipe))) == recipe
