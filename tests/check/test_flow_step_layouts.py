"""What a flow step returns is read in every order and every container, and never misread."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from ldmref import math as lm
from ldmref.apps.cli.main import main
from ldmref.check import identify_flow_step
from ldmref.check.flow_step_calls import LAYOUTS
from ldmref.check.flow_steps import TIMES
from ldmref.errors import InputError

VALUES = ("state", "mean", "std", "log_prob", "x0", "eps", "velocity", "noise", "nothing")


def dance(x, u, s, t, a):
    return lm.flow_sde_transition(x, u, s, t, a)


def cps(x, u, s, t, a):
    return lm.flow_renoise_transition(x, u, s, t, lm.cps_std(t, a))


def euler(x, u, s, t, a):
    return x + (t - s) * u, 0.0


LAWS = {"Dance": dance, "CPS": cps, "Euler (ODE)": euler}


def values_of_a_step(law, x, u, s, t, a, reached, rng):
    mean, std = law(x, u, s, t, a)
    noise = rng.standard_normal(x.shape)
    state = mean + std * noise if reached is None else reached
    gap = (state - mean) / std if std else np.zeros_like(mean)
    log = -0.5 * gap**2 - math.log(std or 1.0) - 0.5 * math.log(2 * math.pi)
    values = (state, mean, std, log.mean(axis=(1, 2, 3)), x - s * u, x + (1 - s) * u, u, noise)
    return dict(zip(VALUES, (*values, None), strict=True))


def step_without_density(law, names, container=tuple):
    """Return a step that draws its state from a generator of its own."""

    def step(sample, model_output, sigma, sigma_next, noise_level):
        rng = np.random.default_rng()
        numbers = sample, model_output, float(sigma), float(sigma_next), noise_level
        values = values_of_a_step(law, *numbers, None, rng)
        return container([values[name] for name in names])

    return step


def step_with_density(law, names, container=tuple):
    def step(sample, model_output, sigma, sigma_next, noise_level, prev_sample=None):
        rng = np.random.default_rng()
        numbers = sample, model_output, float(sigma), float(sigma_next), noise_level
        values = values_of_a_step(law, *numbers, prev_sample, rng)
        return container([values[name] for name in names])

    return step


WITHOUT_DENSITY = [
    ("state",),
    ("mean",),
    ("state", "x0"),
    ("mean", "x0"),
    ("x0", "mean"),
    ("x0", "state"),
    ("state", "mean"),
    ("mean", "state"),
    ("state", "mean", "std"),
    ("mean", "std"),
    ("std", "x0", "mean"),
    ("state", "x0", "nothing"),
    ("state", "eps"),
    ("velocity", "state"),
    ("eps", "x0", "mean"),
    ("noise", "state"),
    ("noise", "x0", "velocity", "eps", "std", "mean"),
]


@pytest.mark.parametrize("names", WITHOUT_DENSITY, ids="-".join)
@pytest.mark.parametrize("law", LAWS)
def test_right_steps_without_a_density_are_named(law, names):
    report = identify_flow_step(step_without_density(LAWS[law], names))
    assert report.name == law and report.is_whole, report
    assert report.density == "none is returned"


ORDERS = [
    *itertools.permutations(("state", "mean", "std", "log_prob")),
    ("state", "log_prob"),
    ("state", "x0", "log_prob"),
    ("log_prob", "x0", "mean"),
    ("log_prob",),
    ("state", "log_prob", "x0", "std", "nothing"),
]


@pytest.mark.parametrize("names", ORDERS, ids="-".join)
@pytest.mark.parametrize("law", ["Dance", "CPS"])
def test_right_steps_with_a_density_are_named(law, names):
    report = identify_flow_step(step_with_density(LAWS[law], names))
    assert report.name == law and report.is_whole, report
    assert report.density == "the mean over all values"


class Named(NamedTuple):
    prev_sample: Any
    pred_original_sample: Any


@dataclass
class Data:
    prev_sample: Any
    pred_original_sample: Any


@dataclass
class Output(OrderedDict):
    """As the outputs of diffusers: a data class that is an ordered dict."""

    prev_sample: Any = None
    pred_original_sample: Any = None

    def __post_init__(self):
        self["prev_sample"] = self.prev_sample
        self["pred_original_sample"] = self.pred_original_sample


class Slotted:
    __slots__ = ("prev_sample", "x0")

    def __init__(self, prev_sample, x0):
        self.prev_sample = prev_sample
        self.x0 = x0


CONTAINERS = {
    "list": list,
    "dict": lambda values: {"prev_sample": values[0], "x0": values[1]},
    "named tuple": lambda values: Named(*values),
    "data class": lambda values: Data(*values),
    "output": lambda values: Output(*values),
    "namespace": lambda values: SimpleNamespace(prev_sample=values[0], x0=values[1]),
}


@pytest.mark.parametrize("names", [("state", "x0"), ("mean", "x0"), ("x0", "mean")], ids="-".join)
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_is_read(container, names):
    report = identify_flow_step(step_without_density(dance, names, CONTAINERS[container]))
    assert report.name == "Dance" and report.is_whole, report


@pytest.mark.parametrize(
    "names", [("x0",), ("noise",), ("x0", "eps"), ("std",), ("velocity", "nothing")], ids="-".join
)
def test_what_has_neither_state_nor_mean_is_refused_with_the_layouts(names):
    report = identify_flow_step(step_without_density(dance, names))
    assert report.name == "unknown" and not report.is_whole
    assert LAYOUTS in report.missing[0] and "nearest" not in report.missing[0]


@pytest.mark.parametrize("result", ["text", object(), Slotted(1, 2), {1, 2}, None])
def test_a_result_that_holds_no_arrays_is_refused_with_the_layouts(result):
    with pytest.raises(InputError) as caught:
        identify_flow_step(lambda sample, velocity, s, s_next: result)
    assert LAYOUTS in caught.value.hint


def test_a_step_that_raises_is_refused_in_one_line():
    def step(sample, velocity, sigma, sigma_next):
        raise KeyError("sigmas")

    with pytest.raises(InputError, match="step raised KeyError"):
        identify_flow_step(step)


def test_a_state_that_must_be_given_is_given():
    def step(sample, velocity, sigma, sigma_next, noise_level, prev_sample):
        mean, std = dance(sample, velocity, float(sigma), float(sigma_next), noise_level)
        return lm.transition_log_density(prev_sample.copy(), mean, std), mean

    report = identify_flow_step(step)
    assert report.name == "Dance" and report.is_whole


def test_a_mean_that_is_not_that_of_the_density_is_found():
    def step(sample, velocity, sigma, sigma_next, noise_level, prev_sample):
        s, t = float(sigma), float(sigma_next)
        mean, std = dance(sample, velocity, s, t, noise_level)
        reached = mean if prev_sample is None else prev_sample
        return lm.transition_log_density(reached, mean, std), sample + (t - s) * velocity

    report = identify_flow_step(step)
    assert report.missing == ("no array that is returned has the mean of the log-density",)


def test_noise_of_numpys_global_state_cancels():
    def step(sample, velocity, sigma, sigma_next, noise_level):
        mean, std = cps(sample, velocity, float(sigma), float(sigma_next), noise_level)
        return mean + std * np.random.standard_normal(mean.shape)  # noqa: NPY002

    before = np.random.default_rng
    report = identify_flow_step(step)
    assert report.name == "CPS" and report.is_whole and np.random.default_rng is before


def test_noise_that_does_not_cancel_is_no_mean():
    rng = np.random.default_rng(0)

    def step(sample, velocity, sigma, sigma_next, noise_level):
        mean, std = cps(sample, velocity, float(sigma), float(sigma_next), noise_level)
        return mean + std * rng.standard_normal(mean.shape), sample - sigma * velocity

    report = identify_flow_step(step)
    assert not report.is_whole and LAYOUTS in report.missing[0]


# -- flow DDIM


def flow_ddim(x, u, s, t, eta):
    """Equation 12 of the DDIM paper in the coordinates of a flow."""
    ratio = t * (1 - s) / (s * (1 - t))
    std = eta * t * math.sqrt(1 - ratio**2)
    x0 = x - s * u
    eps = (x - (1 - s) * x0) / s
    return (1 - t) * x0 + math.sqrt(t * t - std * std) * eps, std


@pytest.mark.parametrize("names", [("state", "x0"), ("mean", "x0"), ("state", "mean", "std")])
def test_flow_ddim_is_named(names):
    report = identify_flow_step(step_without_density(flow_ddim, names))
    assert report.name == "flow DDIM" and report.is_whole
    assert report.level == pytest.approx(0.6, abs=1e-6)


def test_flow_ddim_with_its_density_and_the_arguments_of_published_code():
    def ddim_step(model_output, latents, eta, sigmas, index, prev_sample):
        s, t = float(sigmas[index]), float(sigmas[index + 1])
        rng = np.random.default_rng()
        values = values_of_a_step(flow_ddim, latents, model_output, s, t, eta, prev_sample, rng)
        return values["state"], values["x0"], values["log_prob"]

    report = identify_flow_step(ddim_step)
    assert report.name == "flow DDIM" and report.is_whole
    assert report.density == "the mean over all values"


def test_flow_ddim_with_eta_1_is_the_posterior():
    report = identify_flow_step(
        step_without_density(lambda x, u, s, t, a: flow_ddim(x, u, s, t, 1.0), ("mean",))
    )
    assert report.name == "DDPM posterior" and report.is_whole


@pytest.mark.parametrize("eta", [0.2, 0.6, 0.95])
def test_flow_ddim_is_a_share_of_the_posteriors_std(eta):
    x, u = np.asarray([[0.3]]), np.asarray([[-1.2]])
    for s, t in itertools.pairwise(TIMES[1:-1]):
        ours = lm.flow_renoise_transition(x, u, s, t, eta * lm.flow_posterior_std(s, t))
        theirs = flow_ddim(x, u, s, t, eta)
        assert np.allclose(ours[0], theirs[0], atol=1e-14)
        assert ours[1] == pytest.approx(theirs[1], rel=1e-13)


# -- numbers that are lost


def without_guard(x, u, s, t, a):
    with np.errstate(all="ignore"):
        g = a * np.sqrt(np.float64(s) / (1 - s))
        drift = u + g * g / (2 * s) * (x + (1 - s) * u)
        return x + (t - s) * drift, g * np.sqrt(s - t)


@pytest.mark.parametrize("names", [("state", "mean", "log_prob"), ("mean", "std"), ("state",)])
@pytest.mark.parametrize("make", [step_without_density, step_with_density])
def test_flow_grpo_without_its_guard_fails(make, names):
    report = identify_flow_step(make(without_guard, names))
    assert report.name == "Flow-GRPO" and not report.is_whole
    assert any("NaN or infinity" in m and "from s = 1 to" in m for m in report.missing)
    assert report.guard.startswith("none")


def test_the_command_fails_without_the_guard(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n"
        "def step(sample, velocity, sigma, sigma_next, noise_level, prev_sample=None):\n"
        "    g = noise_level * np.sqrt(sigma / (1 - sigma))\n"
        "    eps = sample + (1 - sigma) * velocity\n"
        "    drift = velocity + g**2 / (2 * sigma) * eps\n"
        "    mean = sample + (sigma_next - sigma) * drift\n"
        "    std = g * np.sqrt(sigma - sigma_next)\n"
        "    reached = mean if prev_sample is None else prev_sample\n"
        "    log = -((reached - mean) ** 2) / (2 * std**2) - np.log(std)\n"
        "    return reached, (log - 0.5 * np.log(2 * np.pi)).mean(axis=(1, 2, 3)), mean\n"
    )
    assert main(["check", "--against", f"{path}:step"]) == 4
    assert "NaN or infinity" in capsys.readouterr().out


def test_a_guard_that_hardly_guards_fails():
    def law(x, u, s, t, a):
        return lm.flow_sde_transition(x, u, s, t, a * math.sqrt(s / (1 - s + 1e-6)))

    report = identify_flow_step(step_without_density(law, ("mean", "std")))
    assert report.name == "Flow-GRPO" and not report.is_whole
    assert "has no guard: its noise has the std 113" in report.missing[0]


@pytest.mark.parametrize("lost", [math.nan, math.inf])
@pytest.mark.parametrize("value", ["state", "mean", "std", "log_prob"])
@pytest.mark.parametrize("index", [0, 3, 6, len(TIMES) - 2])
def test_a_number_that_is_lost_in_any_step_fails(index, value, lost):
    def step(sample, velocity, sigma, sigma_next, noise_level, prev_sample=None):
        rng = np.random.default_rng()
        numbers = sample, velocity, float(sigma), float(sigma_next), noise_level
        values = values_of_a_step(dance, *numbers, prev_sample, rng)
        if float(sigma) == TIMES[index]:
            spoilt = np.array(values[value], np.float64)
            spoilt.flat[-1] = lost
            values[value] = spoilt
        return values["state"], values["mean"], values["std"], values["log_prob"]

    report = identify_flow_step(step)
    assert not report.is_whole
    assert any("NaN or infinity" in m and f"s = {TIMES[index]:.3g} " in m for m in report.missing)


@pytest.mark.parametrize("law", [cps, flow_ddim])
def test_a_law_without_noise_at_the_end_has_an_infinite_density_there(law):
    def step(sample, velocity, sigma, sigma_next, noise_level, prev_sample=None):
        mean, std = law(sample, velocity, float(sigma), float(sigma_next), noise_level)
        reached = mean if prev_sample is None else prev_sample
        with np.errstate(all="ignore"):
            gap = (reached - mean) / np.float64(std)
            log = -0.5 * gap**2 - np.log(np.float64(std)) - 0.5 * np.log(2 * np.pi)
        return reached, log.mean(axis=(1, 2, 3))

    assert identify_flow_step(step).is_whole
