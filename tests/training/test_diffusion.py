"""The denoiser's losses against formulas in NumPy, its conditions, and the classifier."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import stats

torch = pytest.importorskip("torch", reason="training runs on the torch backend")

from noisy_batches import scaled_latents  # noqa: E402

import ldmref  # noqa: E402
from ldmref import modes  # noqa: E402
from ldmref.backends.torch import TorchBackend  # noqa: E402
from ldmref.errors import Cancelled, LdmrefError  # noqa: E402
from ldmref.io.classifier import load_classifier  # noqa: E402
from ldmref.models.classifier import ClassifierConfig, classifier, classifier_spec  # noqa: E402
from ldmref.models.params import flatten, init, tree_map  # noqa: E402
from ldmref.models.presets import preset  # noqa: E402
from ldmref.training.checkpoint import read_checkpoint  # noqa: E402
from ldmref.training.diffusion.classifier import classifier_trainer  # noqa: E402
from ldmref.training.diffusion.latents import Latents, random_timesteps  # noqa: E402
from ldmref.training.diffusion.loss import DiffusionLoss, FlowLoss  # noqa: E402
from ldmref.training.diffusion.stage import Condition, DenoiserTraining, diffusion_trainer  # noqa: E402
from ldmref.training.recipes.file import recipe_from_dict  # noqa: E402
from ldmref.training.recipes.model import for_objective  # noqa: E402
from ldmref.training.recipes.schema import (  # noqa: E402
    Budget,
    ClassifierStage,
    DiffusionObjective,
    DiffusionStage,
    OptimizerConfig,
)
from ldmref.training.training_run import train  # noqa: E402

TYPES = ("eps", "x0", "v")
LOSSES = ("simple", "min_snr", "bound", "hybrid")
SCHEDULES = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear"},
    "cosine": {"beta_schedule": "cosine"},
    "zero_terminal_snr": {"rescale_betas_zero_snr": True, "sigma_max": 5000.0},
}


# -- losses ---------------------------------------------------------------------------------------


def configured(kind, objective, **scheduler):
    config = preset("tiny")
    config = replace(config, scheduler=replace(config.scheduler, prediction_type=kind, **scheduler))
    return for_objective(config, objective)


def betas_by_hand(total=1000):
    return np.linspace(0.00085**0.5, 0.012**0.5, total) ** 2


def loss_by_hand(kind, objective, output, x0, eps, t):
    """One example, written out in float64."""
    beta = betas_by_hand()
    alpha_bar = np.cumprod(1 - beta)
    a = alpha_bar[t]
    s = alpha_bar[t - 1] if t else 1.0
    xt = np.sqrt(a) * x0 + np.sqrt(1 - a) * eps
    y = output[:4]
    v = output[4:]
    target = {"eps": eps, "x0": x0, "v": np.sqrt(a) * eps - np.sqrt(1 - a) * x0}[kind]
    simple = np.mean((y - target) ** 2)
    if objective.loss == "simple":
        return simple
    if objective.loss == "min_snr":
        capped = min(a / (1 - a), objective.snr_gamma)
        return simple * {"x0": capped, "eps": capped * (1 - a) / a, "v": capped * (1 - a)}[kind]
    guess = {
        "x0": y,
        "eps": (xt - np.sqrt(1 - a) * y) / np.sqrt(a),
        "v": np.sqrt(a) * xt - np.sqrt(1 - a) * y,
    }[kind]

    def beta_tilde(i):
        return beta[i] * (1 - alpha_bar[i - 1]) / (1 - alpha_bar[i])

    logvar = np.full_like(x0, np.log(beta_tilde(max(t, 1))))
    if objective.loss == "hybrid":
        logvar = (1 + v) / 2 * np.log(beta[t]) + (1 - v) / 2 * logvar
    if t == 0:
        terms = 0.5 * (np.log(2 * np.pi) + logvar + (x0 - guess) ** 2 / np.exp(logvar))
    else:
        mean = np.sqrt(s) * beta[t] / (1 - a) * (x0 - guess)
        ratio = beta_tilde(t) / np.exp(logvar)
        terms = 0.5 * (ratio - 1 - np.log(ratio) + mean**2 / np.exp(logvar))
    power = objective.timestep_power
    vlb = np.mean(terms) / (((t + 1) / 1000) ** power - (t / 1000) ** power)
    return vlb if objective.loss == "bound" else simple + objective.bound_weight * vlb


@pytest.mark.parametrize(("kind", "loss"), list(itertools.product(TYPES, LOSSES)))
def test_a_loss_is_its_formula(kind, loss):
    objective = DiffusionObjective(loss=loss, snr_gamma=3.0, bound_weight=0.01)
    config = configured(kind, objective)
    ops = TorchBackend("cpu", "float64")
    function = DiffusionLoss(config, objective, ops)
    rng = np.random.default_rng(0)
    x0, eps = rng.standard_normal((2, 5, 4, 2, 2))
    output = rng.standard_normal((5, config.unet.out_channels, 2, 2))
    t = np.asarray([0, 1, 7, 500, 999])
    alpha_bar = np.cumprod(1 - betas_by_hand())[t][:, None, None, None]
    xt = np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * eps
    got = function(*(torch.as_tensor(z) for z in (output, x0, eps, xt, t)))
    expected = [loss_by_hand(kind, objective, *z) for z in zip(output, x0, eps, t, strict=True)]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-8)


def test_the_fixed_large_variance_of_the_bound():
    """A prediction without error: the divergence between beta-tilde and beta is left."""
    objective = DiffusionObjective(loss="bound", timestep_power=1.0)
    config = configured("x0", objective, variance_type="fixed_large")
    function = DiffusionLoss(config, objective, TorchBackend("cpu", "float64"))
    x0 = torch.ones(1, 4, 2, 2, dtype=torch.float64)
    beta = betas_by_hand()
    alpha_bar = np.cumprod(1 - beta)
    ratio = (1 - alpha_bar[9]) / (1 - alpha_bar[10])
    got = function(x0, x0, x0, x0, torch.tensor([10]))
    np.testing.assert_allclose(got, [500 * (ratio - 1 - np.log(ratio))], rtol=1e-8)


def test_the_hybrid_loss_trains_the_mean_by_l_simple_alone():
    objective = DiffusionObjective(loss="hybrid", bound_weight=10.0)
    config = configured("v", objective)
    ops = TorchBackend("cpu", "float64")
    rng = np.random.default_rng(0)
    x0, eps, xt = (torch.as_tensor(z) for z in rng.standard_normal((3, 2, 4, 2, 2)))
    output = torch.as_tensor(rng.standard_normal((2, 8, 2, 2))).requires_grad_()
    arguments = x0, eps, xt, torch.tensor([3, 600])
    DiffusionLoss(config, objective, ops)(output, *arguments).sum().backward()
    hybrid = output.grad
    output.grad = None
    simple = DiffusionObjective(loss="simple")
    DiffusionLoss(config, simple, ops)(output, *arguments).sum().backward()
    torch.testing.assert_close(hybrid[:, :4], output.grad[:, :4])
    assert (hybrid[:, 4:] != 0).all() and (output.grad[:, 4:] == 0).all()


@pytest.mark.parametrize("power", [1.0, 1.5, 3.0])
def test_timesteps_have_the_probability_that_the_bound_divides_by(power):
    objective = DiffusionObjective(loss="bound", timestep_power=power)
    ops = TorchBackend()
    rng = np.random.default_rng(0)
    function = DiffusionLoss(configured("v", objective, num_train_timesteps=8), objective, ops)
    t = np.concatenate([random_timesteps(rng, 100, 8, power, i % 2 == 0) for i in range(400)])
    p = function.probability(torch.arange(8)).numpy()
    assert abs(p.sum() - 1) < 1e-12
    frequency = np.bincount(t, minlength=8) / len(t)
    assert (np.abs(frequency - p) < 5 * np.sqrt(p / len(t))).all()


# -- training -------------------------------------------------------------------------------------


def trainer_of(loss="simple", condition="text", dtype="float64", steps=2, **optimizer):
    """Return a denoiser of five random latents, with a prompt or class for each."""
    objective = DiffusionObjective(loss=loss, condition=condition)
    config = configured("v", objective)
    ops = TorchBackend("cpu", dtype)
    rng = np.random.default_rng(0)
    latents = Latents(*rng.standard_normal((2, 5, 4, 8, 8)).astype(np.float32))
    noisy = scaled_latents(latents, np.arange(1.0, 6.0), 0.5, ops)
    stage = DiffusionStage(objective, OptimizerConfig(4, warmup=1, **optimizer), Budget(steps))
    from ldmref.prompts.tokenizer import PromptTokenizer
    from ldmref.prompts.words import word_tokenizer

    tokenizer = PromptTokenizer(word_tokenizer(["zero one two three four"], 512), 16)
    words = ("zero", "one", "two", "three", "four")
    condition = Condition(lambda i, rng: words[i], [tokenizer])
    return diffusion_trainer(noisy, condition, DenoiserTraining(config, stage, 0, ops))


@pytest.mark.parametrize(
    ("loss", "condition", "count"), [("simple", "text", 2), ("hybrid", "none", 4)]
)
def test_a_batch_in_parts_is_the_batch(loss, condition, count):
    once = trainer_of(loss, condition)
    parts = trainer_of(loss, condition, accumulation=count)
    losses = [[s.loss for s in trainer.run()] for trainer in (once, parts)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    states = [trainer.state() for trainer in (once, parts)]
    assert states[0]["params.unet.conv_in.weight"].dtype == torch.float64
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-6, atol=1e-9)


def test_parts_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(LdmrefError) as caught:
        recipe_from_dict({"diffusion": {"optimizer": {"batch_size": 8, "accumulation": 3}}})
    assert caught.value.code == "E-RECIPE" and "accumulation" in str(caught.value)


def test_a_step_in_bfloat16_is_near_one_in_float32():
    losses = [[s.loss for s in trainer_of(dtype=d, steps=2).run()] for d in ("float32", "bfloat16")]
    np.testing.assert_allclose(*losses, rtol=0.05)


CONTRADICTIONS = {
    "an untrained variance": (
        {"model": {"scheduler": {"variance_type": "learned_range"},
                   "unet": {"out_channels": 32}}}, "hybrid"),
    "eps without signal": (
        {"model": {"scheduler": {"prediction_type": "eps", "rescale_betas_zero_snr": True}}}, "v"),
    "a model of classes with captions": ({"model": {"preset": "ldm-imagenet"}}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_refused(name):
    tables, hint = CONTRADICTIONS[name]
    with pytest.raises(LdmrefError) as caught:
        recipe_from_dict(tables)
    assert caught.value.code == "E-RECIPE" and hint in caught.value.hint


# -- complete trainings ---------------------------------------------------------------------------


@pytest.fixture
def classes(tmp_path):
    """Two images each of three colours, in sub-folders."""
    folder = tmp_path / "classes"
    for name in ("red", "green", "blue"):
        (folder / name).mkdir(parents=True)
        for size in (16, 20):
            Image.new("RGB", (size, size), name).save(folder / name / f"{size}.png")
    return folder


@pytest.fixture
def class_recipe(classes, tables):
    """A recipe with all three stages, and the tables of the diffusion stage and the model."""

    def recipe(objective, steps=3, scheduler=None):
        stage = tables(steps)["diffusion"]
        changes = {
            "stages": ["autoencoder", "diffusion", "classifier"],
            "data": {"source": str(classes)},
            "diffusion": stage | {"objective": objective},
            "classifier": stage,
        }
        settings = tables(steps, **changes)
        settings["model"] = settings["model"] | {"scheduler": scheduler or {}}
        return recipe_from_dict(settings)

    return recipe


CASES = [
    # schedule, target, loss, condition: each value once or more
    ("linear", "eps", "simple", "text"),
    ("scaled_linear", "x0", "min_snr", "class"),
    ("cosine", "v", "hybrid", "none"),
    ("cosine", "x0", "bound", "text"),
    ("zero_terminal_snr", "v", "hybrid", "class"),
    ("zero_terminal_snr", "x0", "simple", "none"),
]


@pytest.mark.parametrize(("schedule", "kind", "loss", "condition"), CASES)
def test_every_kind_of_model_trains_and_draws(
    tables, classes, tmp_path, schedule, kind, loss, condition
):
    settings = tables(2, data={"source": str(classes)})
    settings["model"] = settings["model"] | {
        "scheduler": SCHEDULES[schedule] | {"prediction_type": kind}
    }
    objective = {"loss": loss, "condition": condition}
    settings["diffusion"] = settings["diffusion"] | {"objective": objective}
    model = ldmref.load(train(recipe_from_dict(settings), tmp_path / "run"), backend="numpy")
    prompt = {"text": "16", "class": "green", "none": ""}[condition]
    result = modes.txt2img(model, prompt, seed=1, steps=3)
    assert result.images[0].size == (16, 16) and np.isfinite(result.latents).all()
    assert result.latents.shape == (1, 4, 8, 8)
    if condition == "class":
        again = modes.txt2img(model, "1", seed=1, steps=3)  # blue, green, red
        assert np.array_equal(again.latents, result.latents)
        with pytest.raises(LdmrefError) as caught:
            modes.txt2img(model, "gren", seed=1)
        assert caught.value.code == "E-CLASS" and "'green'" in caught.value.hint


@pytest.mark.slow
def test_three_stages_resumed_equal_three_stages(class_recipe, tmp_path):
    recipe = class_recipe({"condition": "class", "loss": "hybrid"}, steps=4)
    once = tmp_path / "once"
    twice = tmp_path / "twice"
    train(recipe, once)
    for stage in ("diffusion", "classifier"):
        cancel = threading.Event()

        def report(progress, stage=stage, cancel=cancel):
            if (progress.stage, progress.step) == (stage, 2):
                cancel.set()

        with pytest.raises(Cancelled):
            train(recipe, twice, on_progress=report, cancel=cancel)
    train(recipe, twice)
    for name in (
        "diffusion.safetensors",
        "classifier.safetensors",
        "model/model.safetensors",
        "model/classifier.safetensors",
    ):
        if "/" in name:
            assert (twice / name).read_bytes() == (once / name).read_bytes()
            continue
        expected, got = (read_checkpoint(folder / name)[1] for folder in (once, twice))
        assert {k: a.tobytes() for k, a in got.items()} == {
            k: a.tobytes() for k, a in expected.items()
        }


def test_an_image_moved_to_another_class_is_a_change(class_recipe, classes, tmp_path):
    recipe = class_recipe({"condition": "class"}, steps=1)
    train(recipe, tmp_path / "run")
    (classes / "red/16.png").rename(classes / "green/16b.png")
    with pytest.raises(LdmrefError) as caught:
        train(recipe, tmp_path / "run")
    assert caught.value.code == "E-RESUME-CHANGED"


def test_a_classifier_is_added_to_a_trained_model(class_recipe, tmp_path):
    """The stages before it do not depend on the classes; nothing is encoded again."""
    recipe = class_recipe({}, steps=1)
    out = tmp_path / "run"
    lines = []
    train(replace(recipe, stages=("autoencoder", "diffusion")), out)
    latents = {path: path.stat().st_mtime_ns for path in out.glob("latents-*.npy")}
    train(recipe, out, log=lines.append)
    assert (out / "model/classifier.safetensors").exists() and not any(
        "changed" in x for x in lines
    )
    assert {path: path.stat().st_mtime_ns for path in out.glob("latents-*.npy")} == latents


@pytest.mark.parametrize("names", [["a.png"], ["x/a.png", "b.png"], ["x/a.png", "x/y/b.png"]])
def test_images_without_classes_are_refused(class_recipe, tmp_path, names):
    recipe = class_recipe({"condition": "class"})
    folder = tmp_path / "flat"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(folder / name)
    recipe = replace(recipe, data=replace(recipe.data, source=str(folder)))
    with pytest.raises(LdmrefError) as caught:
        train(recipe, tmp_path / "run")
    assert caught.value.code == "E-DATA" and not (tmp_path / "run").exists()


# -- the classifier -------------------------------------------------------------------------------

NETWORK = ClassifierConfig(4, (8, 16), 1, 8, ("dark", "bright"))


def test_the_classifier_learns_what_noise_leaves(tmp_path):
    """Two classes of latents: told apart at little noise, and at chance where nothing is left."""
    ops = TorchBackend()
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 16)
    mean = (2.0 * labels - 1.0)[:, None, None, None] + 0.1 * rng.standard_normal((32, 4, 8, 8))
    latents = Latents(mean.astype(np.float32), np.full((32, 4, 8, 8), -20.0, np.float32))
    noisy = scaled_latents(latents, np.ones(32), latents.scaling_factor, ops)
    scheduler = replace(preset("tiny").scheduler, beta_schedule="cosine")
    stage = ClassifierStage(optimizer=OptimizerConfig(16, 1, 3e-3, warmup=5), budget=Budget(50))
    trainer = classifier_trainer(noisy, labels, NETWORK, scheduler, stage, 0, ops)
    losses = [s.loss for s in trainer.run()]
    assert np.mean(losses[-15:]) < 0.5 < np.mean(losses[:5])
    params = tree_map(ops.asarray, trainer.ema_params())
    with torch.no_grad():
        x = torch.as_tensor(latents.mean) * latents.scaling_factor
        early = classifier(ops, params, NETWORK, x, torch.full((32,), 10.0)).softmax(1)
        late = classifier(ops, params, NETWORK, torch.randn_like(x), torch.full((32,), 999.0))
    assert (early.argmax(1).numpy() == labels).all() and early.max(1).values.mean() > 0.7
    assert 0.1 < (late.argmax(1).numpy() == labels).mean() < 0.9


def test_a_classifier_is_written_and_read(class_recipe, tmp_path):
    folder = train(class_recipe({"condition": "text"}, steps=1), tmp_path / "run")
    config, params = load_classifier(folder)
    assert config.class_names == ("blue", "green", "red") and config.in_channels == 4
    assert {k: a.shape for k, a in flatten(params).items()} == flatten(classifier_spec(config))


DAMAGE = {
    "unknown field": (b"norm_num_groups", b"norm_num_gruops"),
    "wrong size": (b'layers_per_block\\": 1', b'layers_per_block\\": 2'),
    "wrong type": (b'layers_per_block\\": 1', b'layers_per_block\\":{}'),
}


@pytest.mark.parametrize("damage", ["missing", "empty", *DAMAGE])
def test_damaged_classifiers_are_refused(tmp_path, damage):
    from ldmref.io.classifier import FILE, save_classifier

    save_classifier(tmp_path, NETWORK, init(classifier_spec(NETWORK), 0))
    file = tmp_path / FILE
    if damage == "missing":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        old, new = DAMAGE[damage]
        assert old in file.read_bytes()
        file.write_bytes(file.read_bytes().replace(old, new))
    with pytest.raises(LdmrefError):
        load_classifier(tmp_path)


# -- flow matching --------------------------------------------------------------------------------


def flow_loss(**options):
    objective = DiffusionObjective(**options)
    return FlowLoss(
        configured("flow", objective, shift=3.0), objective, TorchBackend("cpu", "float64")
    )


def test_the_loss_of_flow_matching_is_its_formula():
    function = flow_loss()
    rng = np.random.default_rng(0)
    x0, eps, output = rng.standard_normal((3, 5, 4, 2, 2))
    t = np.asarray([0.0, 1.5, 300.0, 750.0, 1000.0])
    s = t[:, None, None, None] / 1000
    xs = function.noised(*(torch.as_tensor(z) for z in (x0, eps, t)))
    np.testing.assert_allclose(xs.numpy(), (1 - s) * x0 + s * eps, rtol=1e-12)
    got = function(*(torch.as_tensor(z) for z in (output, x0, eps, xs.numpy(), t)))
    expected = [np.mean((y - (e - x)) ** 2) for y, e, x in zip(output, eps, x0, strict=True)]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("sampling", ["stratified", "independent"])
def test_flow_times_have_the_density_of_the_recipe(sampling):
    """Logit-normal, then shifted by 3: Kolmogorov-Smirnov against SciPy's normal law."""
    function = flow_loss(logit_mean=0.3, logit_std=0.8, timestep_sampling=sampling)
    t = function.timesteps(np.random.default_rng(0), 4000)
    s = t / 1000 / (3.0 - 2.0 * t / 1000)  # the shift undone
    z = (np.log(s / (1 - s)) - 0.3) / 0.8
    assert stats.kstest(z, "norm").pvalue > 0.01
    uniform = flow_loss(flow_times="uniform", timestep_sampling=sampling)
    t = uniform.timesteps(np.random.default_rng(0), 4000) / 1000
    assert stats.kstest(t / (3.0 - 2.0 * t), "uniform").pvalue > 0.01


def unshifted(t):
    return t / 1000 / (3.0 - 2.0 * t / 1000)


@pytest.mark.parametrize("sampling", ["stratified", "independent"])
def test_times_of_mode_and_cosmap_have_their_densities(sampling):
    """Kolmogorov-Smirnov after the inverse: an arctangent, and a table of mode's own function."""
    function = flow_loss(flow_times="cosmap", timestep_sampling=sampling)
    s = unshifted(function.timesteps(np.random.default_rng(0), 4000))
    assert stats.kstest(np.arctan(s / (1 - s)) * 2 / np.pi, "uniform").pvalue > 0.01
    for scale in (1.29, -0.7):
        function = flow_loss(flow_times="mode", mode_scale=scale, timestep_sampling=sampling)
        s = unshifted(function.timesteps(np.random.default_rng(0), 4000))
        u = np.linspace(0, 1, 20_001)
        table = 1 - u - scale * (np.cos(np.pi * u / 2) ** 2 - 1 + u)
        assert stats.kstest(1 - np.interp(s, table[::-1], u[::-1]), "uniform").pvalue > 0.01


@pytest.mark.parametrize("name", ["cosmap", "sigma_sqrt"])
def test_weights_of_a_flow_multiply_the_loss_at_the_shifted_time(name):
    rng = np.random.default_rng(0)
    arrays = [torch.as_tensor(z) for z in rng.standard_normal((4, 5, 4, 2, 2))]
    s = np.asarray([0.0, 0.0015, 0.3, 0.75, 1.0])
    t = torch.as_tensor(1000 * s)
    plain, weighted = (
        flow_loss(flow_weight=weight)(*arrays, t).numpy() for weight in ("none", name)
    )
    clamped = np.maximum(s, 1e-3)
    weights = {
        "cosmap": 2 / (np.pi * (1 - 2 * clamped + 2 * clamped**2)),
        "sigma_sqrt": clamped**-2,
    }[name]
    np.testing.assert_allclose(weighted / plain, weights, rtol=1e-12)


def test_cosmap_as_a_weight_and_as_a_density_have_one_expectation():
    """The mean of a function of s with the one, and with the other."""
    rng = np.random.default_rng(0)
    objective = {"timestep_sampling": "stratified"}
    s = flow_loss(flow_times="cosmap", **objective).timesteps(rng, 40_000) / 1000
    uniform = flow_loss(flow_times="uniform", **objective).timesteps(rng, 40_000) / 1000
    weights = 2 / (np.pi * (1 - 2 * unshifted(1000 * uniform) + 2 * unshifted(1000 * uniform) ** 2))
    assert np.mean(np.cos(s)) == pytest.approx(np.mean(weights * np.cos(uniform)), abs=1e-3)


def test_losses_of_a_flow_are_counted_in_bins_of_time():
    losses = torch.tensor([1.0, 2.0, 3.0])
    sums, counts = flow_loss().by_timestep(losses, torch.tensor([0.0, 499.9, 1000.0]))
    assert counts.sum() == 3 and sums[0] == 1.0 and sums[9] == 2.0 and sums[-1] == 3.0


@pytest.mark.parametrize("loss", ["min_snr", "bound", "hybrid"])
def test_losses_of_the_other_diffusion_are_refused_for_a_flow(loss):
    with pytest.raises(LdmrefError, match="variance-preserving"):
        configured("flow", DiffusionObjective(loss=loss))


def test_the_recipe_of_a_flow_resumes_bit_for_bit_and_its_model_samples_on_the_flow(tmp_path):
    recipe = recipe_from_dict(
        {
            "data": {"source": "small-emoji", "size": 16},
            "model": {
                "preset": "tiny",
                "scheduler": {"prediction_type": "flow", "sampler": "euler", "spacing": "flow"},
            },
            "autoencoder": {"optimizer": {"batch_size": 4}, "budget": {"steps": 1}},
            "diffusion": {"optimizer": {"batch_size": 4}, "budget": {"steps": 4}},
        }
    )
    once = train(recipe, tmp_path / "once")
    cancel = threading.Event()

    def stop(progress):
        if (progress.stage, progress.step) == ("diffusion", 2):
            cancel.set()

    with pytest.raises(Cancelled):
        train(recipe, tmp_path / "twice", on_progress=stop, cancel=cancel)
    train(recipe, tmp_path / "twice")
    expected, got = (
        read_checkpoint(tmp_path / name / "diffusion.safetensors")[1] for name in ("once", "twice")
    )
    for name in expected:
        if not name.startswith("progress"):
            assert got[name].tobytes() == expected[name].tobytes(), name
    result = modes.txt2img(ldmref.load(once), "a red heart", steps=2, seed=1)
    assert result.params["schedule"] == "flow" and np.isfinite(result.latents).all()
