"""Guidances on a Gaussian mixture with a class: what is true of each, and what each refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pytest
from sampling import solve

from ldmref import samplers
from ldmref.declare import Doc, Range
from ldmref.errors import UsageError
from ldmref.math import classifier_free_guidance, score_from_denoised
from ldmref.samplers import (
    FLOW,
    GUIDANCES,
    SAMPLERS,
    AdaptiveProjected,
    AttentionGuided,
    Autoguidance,
    ClassifierFree,
    Guidance,
    LayersLeftOut,
    LimitedInterval,
    MagnitudeAware,
    NormalizedAttention,
    PartsPerturbed,
    PerpendicularNegative,
    PerturbedAttention,
    Renormalized,
    Rescale,
    SkipLayers,
    Tangential,
    Threshold,
    ZeroStar,
    get_guidance,
    sample,
)
from ldmref.samplers.clipping import clip_predictions, clip_to
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.configure import configured_step
from ldmref.samplers.denoiser import guided_denoiser
from ldmref.samplers.guidances import EmbeddedScale
from ldmref.samplers.path import PURE_NOISE
from ldmref.samplers.predictions import read_prediction
from ldmref.samplers.schedule import make_schedule
from ldmref.testing.mixture import Mixture, three_modes

EVERY = sorted(GUIDANCES)
MIXTURE = three_modes()
X = 2.0 * np.random.default_rng(0).standard_normal((5, 2))
# Parameters with which a guidance is classifier-free guidance.
PLAIN = {
    "cfg": ClassifierFree(),
    "rescale": Rescale(phi=0.0),
    "threshold": Threshold(ratio=1.0, bound=1e6),
    "interval": LimitedInterval(low=0.0, high=1e6),
    "perp_neg": PerpendicularNegative(weight=0.0),
    "pag": PerturbedAttention(scale=0.0),
    "apg": AdaptiveProjected(eta=1.0, radius=0.0, momentum=0.0),
    "slg": SkipLayers(scale=0.0),
    "nag": NormalizedAttention(scale=1.0),
    "autoguidance": Autoguidance(weight=1.0),
    "renorm": Renormalized(factor=1000.0),
    "mambo_g": MagnitudeAware(strength=0.0),
}
NEVER_PLAIN = {"cfg_zero": ZeroStar(zero_above=1e13), "tcfg": Tangential()}
# Guidances without those of their terms that act at scale 1.
AT_ONE = {name: cls() for name, cls in GUIDANCES.items()} | {
    "perp_neg": PerpendicularNegative(weight=0.0),
    "pag": PerturbedAttention(scale=0.0),
    "slg": SkipLayers(scale=0.0),
    "nag": NormalizedAttention(scale=1.0),
    "autoguidance": Autoguidance(weight=1.0),
}
ACTING = {  # where the defaults do nothing at sigma 0.7
    "apg": AdaptiveProjected(radius=0.1),
    "interval": LimitedInterval(low=1.0),
    "slg": SkipLayers(low=0.0),
    "mambo_g": MagnitudeAware(strength=0.5),
}


def component(k):
    one = slice(k, k + 1)
    return Mixture(np.ones(1), MIXTURE.means[one], MIXTURE.stds[one])


COMPONENTS = {"cond": component(0), "uncond": MIXTURE, "empty": MIXTURE}


class Network:
    """The mixture as a network that predicts x0: one class, any class, and a blurred class."""

    def __init__(self, **others):
        names = "perturbed_mid", "skipped_7_8_9", "attended_5.0_2.5", "guide"
        worse = dict.fromkeys(names, component(1))
        self.parts = COMPONENTS | worse | others
        self.calls = []

    def __call__(self, xt, sigma, names, interval):
        self.calls.append(names)
        x = xt * math.sqrt(1 + sigma**2)
        return [self.parts[name].denoise(x, sigma) for name in names]


def denoiser(guidance, scale, **others):
    return guided_denoiser(Network(**others), "x0", guidance, scale)


def test_every_guidance_is_tested_here():
    assert {*PLAIN, *NEVER_PLAIN} == set(AT_ONE) == set(EVERY)
    assert {cls.name: cls for cls in GUIDANCES.values()} == GUIDANCES
    assert all(cls.__doc__ and "arXiv" in cls.source for cls in GUIDANCES.values())


@pytest.mark.parametrize("sigma", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("name", EVERY)
def test_scale_1_is_the_conditional_prediction(name, sigma):
    got = denoiser(AT_ONE[name], 1.0)(X, sigma)
    np.testing.assert_allclose(got, COMPONENTS["cond"].denoise(X, sigma), rtol=1e-12)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 3.0])
@pytest.mark.parametrize("name", PLAIN)
def test_every_guidance_contains_classifier_free_guidance(name, scale):
    want = denoiser(ClassifierFree(), scale)(X, 0.7)
    np.testing.assert_allclose(denoiser(PLAIN[name], scale)(X, 0.7), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_every_guidance_but_cfg_does_something(name):
    plain = denoiser(ClassifierFree(), 4.0)(X, 0.7)
    negative = {"uncond": component(2)} if name == "perp_neg" else {}
    other = denoiser(ACTING.get(name, GUIDANCES[name]()), 4.0, **negative)
    assert (name == "cfg") == np.allclose(other(X, 0.7), plain, rtol=1e-6)


def test_guidance_of_the_mixture_is_bayes_rule_with_a_power():
    """Scores: classifier-free guidance is the gradient of log p(x) + s log p(class | x)."""
    scale, sigma = 3.0, 0.7
    x0 = denoiser(ClassifierFree(), scale)(X, sigma)
    gradient = MIXTURE.posterior_gradient(X, sigma)[:, 0] / MIXTURE.posterior(X, sigma)[:, :1]
    want = MIXTURE.score(X, sigma) + scale * gradient
    np.testing.assert_allclose(score_from_denoised(X, x0, sigma), want, rtol=1e-9)


def test_an_interval_is_open_below_and_closed_above_and_saves_evaluations():
    guidance = LimitedInterval(low=0.5, high=2.0)
    network = Network()
    denoise = guided_denoiser(network, "x0", guidance, 3.0)
    plain = denoiser(ClassifierFree(), 3.0)
    alone = COMPONENTS["cond"].denoise
    for sigma, inside in ((0.5, False), (0.5001, True), (2.0, True), (2.0001, False)):
        np.testing.assert_array_equal(denoise(X, sigma), (plain if inside else alone)(X, sigma))
        assert network.calls[-1] == (("uncond", "cond") if inside else ("cond",))
    assert guidance.evaluations(3.0) == 2 and guidance.evaluations(1.0) == 1


def test_the_negative_prompt_takes_only_what_the_prompt_has_not():
    """The guided x0 has the component along the prompt that guidance without it has."""
    both = denoiser(PerpendicularNegative(), 3.0, uncond=component(2))(X, 1.0)
    without = denoiser(PerpendicularNegative(weight=0.0), 3.0)(X, 1.0)
    along = COMPONENTS["cond"].denoise(X, 1.0) - MIXTURE.denoise(X, 1.0)
    np.testing.assert_allclose(((both - without) * along).sum(axis=1), 0.0, atol=1e-12)
    assert np.abs(both - without).max() > 0.1


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_a_guidance_uses_what_it_needs_and_nothing_else(name, scale):
    guidance = GUIDANCES[name]()
    names = guidance.needs(1.0, scale)
    used = set()

    class Watched(dict):
        def __getitem__(self, key):
            used.add(key)
            return super().__getitem__(key)

    guidance(Watched({key: X + i for i, key in enumerate(names)}), 1.0, scale, ())
    assert used == set(names) and len(names) <= guidance.evaluations(scale)


@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
@pytest.mark.parametrize("name", sorted({*EVERY} - {"rescale", "tcfg"}))
def test_the_prediction_type_does_not_matter_where_it_should_not(name, kind):
    """All of these are affine in the predictions at one x, or are computed on x0 or velocities."""
    sigma = 0.9
    a = 1 / (1 + sigma**2)

    def network(xt, sigma, names, interval):
        if kind == "flow":
            x = xt * (1 + sigma)
            x0s = Network(uncond=component(2))(x * math.sqrt(a), sigma, names, interval)
            return [(x - x0) / sigma - x0 for x0 in x0s]
        x0s = Network(uncond=component(2))(xt, sigma, names, interval)
        eps = [(xt - math.sqrt(a) * x0) / math.sqrt(1 - a) for x0 in x0s]
        if kind == "eps":
            return eps
        pairs = zip(eps, x0s, strict=True)
        return [math.sqrt(a) * e - math.sqrt(1 - a) * x0 for e, x0 in pairs]

    got = guided_denoiser(network, kind, GUIDANCES[name](), 3.0)(X, sigma)
    want = denoiser(GUIDANCES[name](), 3.0, uncond=component(2))(X, sigma)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_skipped_layers_act_between_two_noise_levels():
    guidance = SkipLayers(scale=2.0, low=0.5, high=2.0)
    network = Network()
    denoise = guided_denoiser(network, "x0", guidance, 3.0)
    plain = denoiser(ClassifierFree(), 3.0)
    for sigma, inside in ((0.5, False), (0.5001, True), (2.0, True), (2.0001, False)):
        away = COMPONENTS["cond"].denoise(X, sigma) - component(1).denoise(X, sigma)
        want = plain(X, sigma) + (2.0 * away if inside else 0.0)
        np.testing.assert_allclose(denoise(X, sigma), want, rtol=1e-12)
        assert network.calls[-1] == ("uncond", "cond", *(("skipped_7_8_9",) if inside else ()))
    assert guidance.evaluations(3.0) == 3 and guidance.evaluations(1.0) == 2
    assert guidance.perturbed == ("skipped_7_8_9",) and SkipLayers(scale=0.0).perturbed == ()


def test_a_prediction_without_layers_has_their_numbers():
    assert read_prediction("skipped_0_12").steering == LayersLeftOut((0, 12))
    assert read_prediction("perturbed_mid").steering == PartsPerturbed(("mid",))
    assert read_prediction("perturbed_all").steering.parts == ("down", "mid", "up")
    assert read_prediction("attended_5.0_1e-05").steering == AttentionGuided(5.0, 1e-05)
    assert read_prediction("cond").steering is None
    for other in ("skipped_", "skipped_a", "skipped_1_", "attended_", "attended_5.0", "guided"):
        assert read_prediction(other) is None

    class Wrong(Guidance):
        def needs(self, sigma, cfg_scale):
            return ("cond", "skipped_x")

    with pytest.raises(UsageError, match="needs the prediction 'skipped_x'") as caught:
        denoiser(Wrong(), 3.0)(X, 1.0)
    assert "skipped_7_8_9" in caught.value.hint


def test_cfgpp_refuses_a_network_that_reads_the_scale():
    """Both predictions have the scale, so that their difference is no guidance (Flux.1 dev)."""
    denoise = denoiser(EmbeddedScale(), 3.5)
    with pytest.raises(UsageError, match="reads the guidance scale itself") as caught:
        list(sample(denoise, X, SIGMAS, samplers.cfgpp()))
    assert caught.value.code == "E-GUIDANCE"
    assert np.isfinite(list(sample(denoise, X, SIGMAS, SAMPLERS["ddim"].make()))[-1].x).all()


# -- velocities -----------------------------------------------------------------------------------

ON_VELOCITY = sorted(name for name, cls in GUIDANCES.items() if cls.on_velocity)


def velocities(x, sigma):
    """Return the velocities of the mixture at x0 + sigma eps: without and with the prompt."""
    x0s = [COMPONENTS[name].denoise(x, sigma) for name in ("uncond", "cond")]
    return [(x - x0) / sigma - x0 for x0 in x0s]


def test_cfg_zero_is_the_published_formula_on_velocities():
    u, c = velocities(X, 0.7)
    alpha = (c * u).sum(axis=1, keepdims=True) / (u * u).sum(axis=1, keepdims=True)
    v = alpha * u + 3.0 * (c - alpha * u)
    x0 = X / 1.7 - 0.7 / 1.7 * v
    np.testing.assert_allclose(denoiser(ZeroStar(), 3.0)(X, 0.7), x0, rtol=1e-12)


def test_the_renormalised_velocity_has_the_norm_of_the_conditional_one():
    _, c = velocities(X, 0.7)
    x0 = denoiser(Renormalized(grow=True), 3.0)(X, 0.7)
    v = (X / 1.7 - x0) / (0.7 / 1.7)
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), np.linalg.norm(c, axis=1), rtol=1e-12)


def test_mambo_g_damps_by_the_ratio_of_velocities():
    u, c = velocities(X, 0.7)
    ratio = np.linalg.norm(c - u, axis=1) / np.linalg.norm(u, axis=1)
    x0 = denoiser(MagnitudeAware(strength=0.5), 3.0)(X, 0.7)
    v = c + 2.0 * np.exp(-0.5 * ratio)[:, None] * (c - u)
    np.testing.assert_allclose(x0, X / 1.7 - 0.7 / 1.7 * v, rtol=1e-12)


@pytest.mark.parametrize("name", ON_VELOCITY)
def test_a_network_of_velocities_gives_them_to_the_guidance_unchanged(name):
    """On the path of flow matching, as the networks of flow families are sampled."""
    seen = {}

    class Watched(GUIDANCES[name]):
        def __call__(self, predictions, sigma, cfg_scale, memory):
            seen.update(predictions, sigma=sigma)
            return super().__call__(predictions, sigma, cfg_scale, memory)

    def network(xs, s, names, interval):
        return [np.full_like(xs, float(name == "cond") - 2.0) for name in names]

    denoise = guided_denoiser(network, "flow", Watched(), 3.0, path=FLOW)
    denoise(X, 0.75)
    np.testing.assert_array_equal(seen["cond"], np.full_like(X, -1.0))
    np.testing.assert_array_equal(seen["uncond"], np.full_like(X, -2.0))
    assert seen["sigma"] == 3.0
    assert np.isfinite(denoise(X, 0.0)).all()


def test_cfg_zero_leaves_pure_noise_as_it_is():
    """The velocity is zero: Euler's step does not move, and the network is called once."""
    calls = []

    def network(xs, s, names, interval):
        calls.append(names)
        return [np.full_like(xs, 0.1 + (name == "cond")) for name in names]

    denoise = guided_denoiser(network, "flow", ZeroStar(), 3.0, path=FLOW)
    levels = [1.0, 0.75, 0.5]
    states = list(sample(denoise, X, levels, SAMPLERS["euler"].make(), path=FLOW))
    np.testing.assert_array_equal(states[0].x, X)
    assert calls == [("cond",), ("uncond", "cond")] and not np.allclose(states[1].x, X)
    never = ZeroStar(zero_above=1e13)
    assert never.needs(PURE_NOISE, 3.0) == ("uncond", "cond")
    assert ZeroStar().needs(PURE_NOISE, 1.0) == ("cond",)
    assert (
        guided_denoiser(network, "flow", ZeroStar(), 1.0, path=FLOW)(X, 1.0).tolist()
        == (X - 1.1).tolist()
    )


def test_velocities_do_not_exist_without_noise():
    with pytest.raises(UsageError, match="'cfg_zero' combines velocities") as caught:
        denoiser(ZeroStar(), 3.0)(X, 0.0)
    assert caught.value.code == "E-GUIDANCE" and "\n" not in str(caught.value)


def test_tokens_must_fit():
    odd = np.ones((1, 4, 3, 4))
    with pytest.raises(UsageError, match="latents of 3 x 4 have no whole tokens of 2 x 2"):
        Renormalized(over="token")({"uncond": odd, "cond": 2 * odd}, 1.0, 3.0, ())


# -- memory ---------------------------------------------------------------------------------------

MOMENTUM = AdaptiveProjected(radius=1.0, momentum=-0.5)
SIGMAS = [4.0, 2.0, 1.0, 0.5, 0.2]


def run(guidance, step="euler", **extra):
    step = SAMPLERS[step].make() if isinstance(step, str) else step
    return list(sample(denoiser(guidance, 3.0), X, SIGMAS, step, **extra))


def test_momentum_is_passed_from_step_to_step():
    states = run(MOMENTUM)
    expected, average = X, None
    for i, sigma in enumerate(SIGMAS[:-1]):
        cond = COMPONENTS["cond"].denoise(expected, sigma)
        uncond = MIXTURE.denoise(expected, sigma)
        x0, average = samplers.guidance_directions.adaptive_projected_guidance(
            uncond, cond, 3.0, 0.0, 1.0, -0.5, average
        )
        expected = x0 + SIGMAS[i + 1] / sigma * (expected - x0)
        np.testing.assert_allclose(states[i].x, expected, rtol=1e-12)
    assert not np.allclose(states[-1].x, run(replace(MOMENTUM, momentum=0.0))[-1].x)


@pytest.mark.parametrize(
    "step", ["euler", "heun", "dpmpp_2m", "unipc", "rk45", "lms", "ddim_cfgpp"]
)
def test_nothing_is_hidden_in_the_denoiser(step):
    """A run that is continued from a state, by another denoiser, ends as the whole run does."""
    states = run(MOMENTUM, step)
    for i in (0, 2):
        rest = sample(
            denoiser(MOMENTUM, 3.0),
            states[i].x,
            SIGMAS,
            SAMPLERS[step].make(),
            visits=range(i + 1, len(SIGMAS)),
            history=states[i].history,
        )
        np.testing.assert_array_equal(list(rest)[-1].x, states[-1].x)
    denoise = denoiser(MOMENTUM, 3.0)
    np.testing.assert_array_equal(denoise(X, 1.0), denoise(X, 1.0))


def test_all_evaluations_of_a_step_begin_with_the_same_memory():
    seen = []

    class Watching(AdaptiveProjected):
        def __call__(self, predictions, sigma, cfg_scale, memory):
            result = super().__call__(predictions, sigma, cfg_scale, memory)
            seen.append((sigma, memory, result[1]))
            return result

    run(Watching(radius=1.0), "heun")
    assert [sigma for sigma, _, _ in seen] == [4.0, 2.0, 2.0, 1.0, 1.0, 0.5, 0.5, 0.2]
    for i in range(0, len(seen), 2):
        assert seen[i + 1][1] is seen[i][1]
        assert i == 0 or seen[i][1] is seen[i - 2][2]
    assert seen[0][1] == ()


def test_a_jump_back_begins_anew():
    noise = iter(np.random.default_rng(1).standard_normal((2, *X.shape)))
    states = run(MOMENTUM, visits=[0, 1, 2, 1, 2], noise=lambda: next(noise))
    sigma = SIGMAS[1]
    before = states[1].x + math.sqrt(sigma**2 - SIGMAS[2] ** 2) * np.random.default_rng(
        1
    ).standard_normal(X.shape)
    np.testing.assert_allclose(states[2].x0, denoiser(MOMENTUM, 3.0)(before, sigma), rtol=1e-12)


def test_without_memory_the_history_is_the_sampler_s_own():
    for guidance in (ClassifierFree(), Rescale(), replace(MOMENTUM, momentum=0.0)):
        assert not denoiser(guidance, 3.0).remembers
        assert run(guidance)[-1].history == ()


# -- CFG++ ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, 0.6, 1.0])
def test_cfgpp_is_guidance_whose_scale_depends_on_the_step(scale):
    """Euler's step with s = lambda sigma / (sigma - sigma'), which has no limit for many steps."""
    states = list(sample(denoiser(ClassifierFree(), scale), X, SIGMAS, samplers.cfgpp()))
    x = X
    for i, sigma in enumerate(SIGMAS[:-1]):
        after = SIGMAS[i + 1]
        s = scale * sigma / (sigma - after)
        x0 = classifier_free_guidance(
            MIXTURE.denoise(x, sigma), COMPONENTS["cond"].denoise(x, sigma), s
        )
        x = x + (after - sigma) * (x - x0) / sigma
        np.testing.assert_allclose(states[i].x, x, rtol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_cfgpp_without_guidance_is_ddim(eta):
    def end(step):
        rng = np.random.default_rng(2)
        return solve(
            step,
            denoiser(ClassifierFree(), 0.0),
            X,
            SIGMAS,
            noise=lambda: rng.standard_normal(X.shape),
        ).x

    np.testing.assert_array_equal(end(samplers.cfgpp(eta)), end(samplers.ancestral(eta)))


def test_cfgpp_ends_with_the_guided_prediction():
    last = solve(samplers.cfgpp(), denoiser(ClassifierFree(), 0.6), X, [2.0, 1.0, 0.0])
    np.testing.assert_array_equal(last.x, last.x0)


@pytest.mark.parametrize("convention", ["ldmref", "diffusers"])
@pytest.mark.parametrize("name", ["ddim_cfgpp", "euler_cfgpp"])
def test_cfgpp_keeps_its_second_prediction_where_predictions_are_clipped(name, convention):
    """A scheduler that clips x0 wraps the denoiser; the noise is still the unconditional one's."""
    config = SchedulerConfig(clip_sample_range=1.0, convention=convention)
    schedule = make_schedule(config, SAMPLERS[name], None, 4)
    step, visits = configured_step(config, SAMPLERS[name], schedule)
    x = schedule.sigmas[0] * X
    denoise = denoiser(ClassifierFree(), 0.6)
    sigmas = schedule.sigmas.tolist()
    got = next(iter(sample(denoise, x, sigmas, step, visits=visits)))
    assert denoise.guided(x, sigmas[0], unconditional=True).uncond is not None
    cond = COMPONENTS["cond"].denoise(x, sigmas[0])
    uncond = MIXTURE.denoise(x, sigmas[0])
    x0 = np.clip(classifier_free_guidance(uncond, cond, 0.6), -1, 1)
    want = x0 + sigmas[1] / sigmas[0] * (x - np.clip(uncond, -1, 1))
    np.testing.assert_allclose(got.x, want, rtol=1e-6)


def test_memory_passes_through_clipped_predictions():
    step = clip_predictions(SAMPLERS["euler"].make(), clip_to(0.5))
    states = run(MOMENTUM, step)
    assert all(np.abs(state.x0).max() <= 0.5 for state in states)
    own, memory = states[-1].history
    assert own == () and memory[0].shape == X.shape


# -- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_what_is_recorded_is_read_back(name):
    for guidance in (GUIDANCES[name](), (PLAIN | NEVER_PLAIN)[name]):
        assert get_guidance(guidance.record) == guidance
        assert get_guidance(guidance) is guidance
    assert get_guidance(name.upper()) == GUIDANCES[name]()


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("rescal", "unknown guidance 'rescal'", "did you mean 'rescale'?"),
        ("", "unknown guidance ''", "cfg"),
        (3, "guidance must be a name", "rescale"),
        ({"phi": 0.5}, "a table with a name", "rescale"),
        ({"name": "rescale", "ph": 0.5}, "unknown key rescale.ph", "did you mean 'phi'?"),
        ({"name": "rescale", "phi": 1.5}, "rescale.phi must be a number from 0 to 1", ""),
        ({"name": "rescale", "phi": "a"}, "rescale.phi must be a number", ""),
        ({"name": "rescale", "phi": math.nan}, "rescale.phi must be a number", ""),
        ({"name": "pag", "layers": "mids"}, "unknown pag.layers 'mids'", "mid"),
        ({"name": "threshold", "bound": 0}, "threshold.bound must be a number above 0", ""),
        ({"name": "slg", "layers": []}, "slg.layers", ""),
        ({"name": "slg", "low": 3, "high": 2}, "slg.low must be below slg.high", ""),
        ({"name": "renorm", "over": "tokens"}, "unknown renorm.over 'tokens'", "token"),
        ({"name": "cfg_zero", "zero_above": -1}, "cfg_zero.zero_above must be a number", ""),
        ({"name": "interval", "low": 3, "high": 2}, "interval.low must be below interval.high", ""),
    ],
)
def test_refused(value, message, hint):
    with pytest.raises(UsageError) as caught:
        get_guidance(value)
    assert message in str(caught.value) and hint in (caught.value.hint or "")
    assert caught.value.code == "E-GUIDANCE" and "\n" not in str(caught.value)


def test_an_object_is_checked_when_it_is_made():
    with pytest.raises(UsageError, match=r"rescale\.phi must be a number from 0 to 1, not 2"):
        Rescale(phi=2)
    with pytest.raises(UsageError, match=r"unknown pag\.layers"):
        PerturbedAttention(layers="middle")  # type: ignore[arg-type]


def test_an_own_guidance_is_a_few_lines():
    @dataclass(frozen=True)
    class Fading(Guidance):
        name = "fading"
        knee: Annotated[float, Range(0.0, above=True), Doc("Sigma of half the scale.")] = 1.0

        def __call__(self, predictions, sigma, cfg_scale, memory):
            scale = 1.0 + (cfg_scale - 1.0) * sigma / (sigma + self.knee)
            return classifier_free_guidance(predictions["uncond"], predictions["cond"], scale), ()

    half = denoiser(Fading(knee=2.0), 5.0)(X, 2.0)
    np.testing.assert_allclose(half, denoiser(ClassifierFree(), 3.0)(X, 2.0), rtol=1e-12)
    assert Fading(3.0).record == {"name": "fading", "knee": 3.0}
    with pytest.raises(UsageError):
        Fading(knee=0.0)
