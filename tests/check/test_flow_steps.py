"""`ldmref check --against module:step` names stochastic flow steps, and what is missing in them."""

import json
import math
import sys
from types import ModuleType

import numpy as np
import pytest

from ldmref import math as lm
from ldmref.apps.cli.main import main
from ldmref.check import identify_flow_step
from ldmref.check.flow_steps import TIMES
from ldmref.errors import InputError


def sde(diffusion):
    return lambda x, u, s, t, a: lm.flow_sde_transition(x, u, s, t, diffusion(s, a))


def renoised(std):
    return lambda x, u, s, t, a: lm.flow_renoise_transition(x, u, s, t, std(s, t, a))


LAWS = {
    "Flow-GRPO": sde(lambda s, a: lm.flow_grpo_diffusion(s, TIMES[1], a)),
    "Dance": sde(lambda s, a: a),
    "Flow-GRPO for Wan": sde(lambda s, a: TIMES[1] * s),
    "SDE with g = a sqrt(s)": sde(lambda s, a: a * math.sqrt(s)),
    "CPS": renoised(lambda s, t, a: lm.cps_std(t, a)),
    "Precise": renoised(lm.precise_std),
    "DDPM posterior": renoised(lambda s, t, a: lm.flow_posterior_std(s, t)),
    "ancestral RF": renoised(lambda s, t, a: lm.ancestral_flow_std(s, t, a)),
    "stochastic_sampling": renoised(lambda s, t, a: t),
}


def make(law, average=True, density=lm.transition_log_density):
    """Return a step with the parameters of published functions."""

    def step(model_output, sample, sigma, sigma_next, noise_level, prev_sample=None):
        s, t = float(sigma), float(sigma_next)
        mean, std = law(sample, model_output, s, t, noise_level)
        if prev_sample is None:
            prev_sample = mean + std * np.random.default_rng(0).standard_normal(mean.shape)
        return prev_sample, density(prev_sample, mean, std, average), mean, std

    return step


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("name", LAWS)
def test_published_laws_are_named(name, average):
    report = identify_flow_step(make(LAWS[name], average))
    assert report.name == name and report.is_whole, report
    assert report.density == ("the mean over all values" if average else "the sum over all values")
    if name in ("Flow-GRPO", "Dance", "CPS", "Precise"):
        assert report.level == pytest.approx(0.6, abs=1e-6)


@pytest.mark.parametrize(
    ("diffusion", "guard"),
    [
        (lambda s, a: lm.flow_grpo_diffusion(s, TIMES[1], a), "that of the authors' code"),
        (lambda s, a: lm.flow_grpo_clamped_diffusion(s, 0.95, a), "s is at most 0.95 in 1 - s"),
        (lambda s, a: lm.flow_grpo_clamped_diffusion(s, 0.999, a), "s is at most 0.999 in 1 - s"),
        (
            lambda s, a: lm.flow_grpo_clamped_diffusion(min(s, 0.99), 0.99, a),
            "s is at most 0.99 in s / (1 - s)",
        ),
        (lambda s, a: a * math.sqrt(s / (1 - s + 1e-6)), "none: the first step is infinite"),
    ],
)
def test_guards_are_told_apart(diffusion, guard):
    report = identify_flow_step(make(sde(diffusion)))
    assert report.name == "Flow-GRPO" and report.guard.startswith(guard)


def test_density_of_cps_is_recognised():
    def squares(x, mean, std, average):
        return -((x - mean) ** 2).mean(axis=(1, 2, 3))

    report = identify_flow_step(make(LAWS["CPS"], density=squares))
    assert report.is_whole and "without 1 / (2 std^2) and constants" in report.density


def test_density_without_constants_is_recognised():
    def plain(x, mean, std, average):
        return (-((x - mean) ** 2) / (2 * std**2)).sum(axis=(1, 2, 3))

    report = identify_flow_step(make(LAWS["Dance"], density=plain))
    assert report.density == "the sum over all values, without constants" and report.is_whole


def test_noise_without_its_drift_is_found():
    report = identify_flow_step(make(lambda x, u, s, t, a: (x + (t - s) * u, a * (s - t) ** 0.5)))
    assert not report.is_whole and "the drift lacks the term g^2 / (2 s) eps" in report.missing[0]


def test_std_without_the_root_of_the_step_is_found():
    def law(x, u, s, t, a):
        g = a * math.sqrt(s / (1.001 - s))
        return lm.flow_sde_transition(x, u, s, t, a)[0], a + 0 * g

    report = identify_flow_step(make(law))
    assert report.name == "Dance"
    assert "the log-density has the std g and not g sqrt(s - s')" in report.missing


def test_wrong_sign_is_unknown_with_the_nearest():
    def law(x, u, s, t, a):
        mean, std = lm.flow_sde_transition(x, u, s, t, a)
        return 2 * (x + (t - s) * u) - mean, std

    report = identify_flow_step(make(law))
    assert report.name == "unknown" and "nearest: Euler (ODE)" in report.missing[0]


def test_a_fixed_noise_level_is_found():
    report = identify_flow_step(make(lambda x, u, s, t, a: LAWS["CPS"](x, u, s, t, 0.7)))
    assert report.missing == ("the noise level has no effect: 0.6 was passed, 0.7 is used",)


def test_noise_of_another_std_is_found():
    def step(sample, velocity, sigma, sigma_next, eta, prev_sample):
        s, t = float(sigma), float(sigma_next)
        mean, std = lm.flow_sde_transition(sample, velocity, s, t, eta)
        if prev_sample is None:
            prev_sample = mean + 2 * std * np.random.default_rng(0).standard_normal(mean.shape)
        return {"x": prev_sample, "log": lm.transition_log_density(prev_sample, mean, std)}

    report = identify_flow_step(step)
    assert report.name == "Dance" and "another std than the law" in report.missing[0]


def test_torch_functions_of_a_scheduler_are_called(monkeypatch):
    """As in published code: self, timesteps, single precision; the times are looked up."""
    torch = pytest.importorskip("torch")
    module = ModuleType("published")
    module.torch = torch
    source = (
        "def step(self, model_output, timestep, sample, noise_level=0.7, generator=None):\n"
        "    i = self.index_for_timestep(timestep[0])\n"
        "    s, t = self.sigmas[i], self.sigmas[i + 1]\n"
        "    x0 = sample - s * model_output\n"
        "    return ((1 - t) * x0 + t * torch.randn_like(sample),)\n"
    )
    monkeypatch.setitem(sys.modules, "published", module)
    exec(source, vars(module))
    report = identify_flow_step(module.step)
    assert report.name == "stochastic_sampling" and report.density == "none is returned"
    assert report.is_whole


def test_an_unknown_parameter_is_refused():
    with pytest.raises(InputError, match="parameter 'banana'"):
        identify_flow_step(lambda sample, velocity, banana: None)


STEP = """
import numpy as np

def step(sample, velocity, sigma, sigma_next, eta):
    eps = sample + (1 - sigma) * velocity
    drift = velocity {sign} eta ** 2 / (2 * sigma) * eps
    mean = sample + (sigma_next - sigma) * drift
    return mean, eta * np.sqrt(sigma - sigma_next)
"""


@pytest.mark.parametrize(("sign", "code"), [("+", 0), ("-", 4)])
def test_command_names_the_step(tmp_path, capsys, sign, code):
    path = tmp_path / "mine.py"
    path.write_text(STEP.format(sign=sign))
    assert main(["check", "--against", f"{path}:step"]) == code
    ran = capsys.readouterr()
    if code == 0:
        assert "Dance, eta = 0.6" in ran.out and "log-density: none is returned" in ran.out
    else:
        assert "no published step has this mean" in ran.err


def test_command_prints_json(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(STEP.format(sign="+"))
    assert main(["check", "--against", f"{path}:step", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "Dance"


def test_command_refuses_a_function_that_is_not_there(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(STEP.format(sign="+"))
    assert main(["check", "--against", f"{path}:stepp"]) != 0
    assert "did you mean" in capsys.readouterr().err
