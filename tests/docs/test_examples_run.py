"""The examples run with the core dependencies alone, or say in one line what they need."""

from __future__ import annotations

import os
import subprocess

import pytest
from blocks import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a POSIX environment")
# Modules for `ldmref check` and for pytest, which have their own tests
MODULES = {"check_diffusers", "test_image_client"}
NEEDS = {  # what an example says without torch
    "guidance_by_gradient": "needs PyTorch",
    "linear_autoencoder": "needs PyTorch",
    "own_backend": "",
    "own_guidance": "",
    "own_sampler": "",
    "two_backends": "needs PyTorch",
}


def test_every_example_is_named():
    names = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert names == {*NEEDS, *MODULES}


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_without_torch(name, environment, tmp_path):
    python = environment(False) / "bin" / "python"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    ran = subprocess.run(
        [python, ROOT / "examples" / f"{name}.py"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if not NEEDS[name]:
        assert ran.returncode == 0, ran.stderr
        return
    assert ran.returncode == 1 and len(ran.stderr.splitlines()) == 1, ran.stderr
    assert NEEDS[name] in ran.stderr and "pip install" in ran.stderr


def test_functions_to_check_without_torch(environment, tmp_path):
    command = [environment(False) / "bin" / "python", "-m", "ldmref", "check", "--against"]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    ran = subprocess.run(
        [*command, ROOT / "examples" / "check_diffusers.py"],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode in (2, 3) and "No module named 'torch'" in ran.stderr
    assert "Traceback" not in ran.stderr
