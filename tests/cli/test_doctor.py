"""`ldmref doctor` names the variables that hold NumPy's kernels back."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from ldmref.cli import doctor


@pytest.mark.parametrize(
    ("kernels", "avx512", "environ", "advice"),
    [
        (
            "Haswell",
            True,
            {"OPENBLAS_CORETYPE": "Haswell"},
            "half .* unset OPENBLAS_CORETYPE",
        ),
        ("Haswell", True, {}, "half the speed .* pip install --upgrade numpy"),
        ("Haswell", False, {}, "^$"),
        ("SkylakeX", True, {}, "^$"),
        ("Zen", False, {"OPENBLAS_L2_SIZE": "512"}, "^$"),
    ],
)
def test_slow_kernels_come_with_a_remedy(monkeypatch, kernels, avx512, environ, advice):
    for name in doctor.OPENBLAS_OVERRIDES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    first, *variables = doctor.report_kernels(kernels, avx512)
    assert (first.topic, first.value) == ("blas kernels", kernels)
    assert re.search(advice, first.advice)
    assert [finding.topic for finding in variables] == list(doctor.OPENBLAS_OVERRIDES)
    for finding in variables:
        value = environ.get(finding.topic)
        assert finding.value == (value or "not set")
        assert finding.advice.endswith(f"unset {finding.topic}" if value else "")
        assert bool(finding.advice) == bool(value)


def test_the_command_leaves_the_choice_of_kernels_to_openblas():
    code = (
        "import os\n"
        "before = dict(os.environ)\n"
        "from ldmref.cli.main import main\n"
        "main(['--version'])\n"
        "assert dict(os.environ) == before\n"
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, capture_output=True)
