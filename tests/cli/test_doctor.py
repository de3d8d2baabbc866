"""`ldmref doctor` names the variables that hold NumPy's kernels back."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from ldmref.apps.cli import doctor


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
        "from ldmref.apps.cli.main import main\n"
        "main(['--version'])\n"
        "assert dict(os.environ) == before\n"
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("free_threaded", "gil", "words"),
    [
        (0, True, ""),
        (1, False, " free-threaded, without the GIL"),
        (1, True, " free-threaded, with the GIL"),
    ],
)
def test_the_kind_of_python_is_shown(monkeypatch, free_threaded, gil, words):
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: free_threaded)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: gil, raising=False)
    python = next(finding for finding in doctor.check_versions() if finding.topic == "python")
    assert python.value == ".".join(map(str, sys.version_info[:3])) + words
