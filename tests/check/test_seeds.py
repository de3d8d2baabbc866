"""`ldmref check` holds on a clean install: the command of the README in full, and other seeds."""

import pytest

from ldmref.apps.cli.main import main
from ldmref.backends import get_backend
from ldmref.check import run

SEEDS = 20


@pytest.mark.parametrize("backend", ["numpy", pytest.param("torch", marks=pytest.mark.slow)])
def test_the_command_of_the_readme_holds_in_full(backend, capfd):
    pytest.importorskip(backend)
    argv = ["check"] if backend == "numpy" else ["check", "--backend", backend]
    code = main(argv)
    out = capfd.readouterr().out
    assert code == 0, [line for line in out.splitlines() if " FAILED" in line or " ERROR" in line]
    assert "100 cases each" in out.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_every_identity_holds_for_every_seed(backend, dtype):
    """With `-s` it prints the worst error of each identity as a fraction of the error allowed."""
    pytest.importorskip(backend)
    worst = {}
    failed = []
    for seed in range(SEEDS):
        for result in run(get_backend(backend, dtype=dtype), seed=seed):
            failed += [] if result.holds else [(seed, result.identity, result.worst)]
            fraction = result.worst / result.allowed if result.allowed else result.worst
            worst[result.identity] = max(fraction, worst.get(result.identity, 0.0))
    for identity, fraction in sorted(worst.items(), key=lambda item: item[1]):
        print(f"{backend} {dtype} {fraction:6.3f} {identity}")
    assert not failed


@pytest.mark.parametrize("seed", range(3))
def test_a_few_cases_of_other_seeds_hold(seed):
    results = list(run(get_backend("numpy", dtype="float64"), seed=1000 + seed, cases=5))
    assert len(results) > 150 and not [r.identity for r in results if not r.holds]
