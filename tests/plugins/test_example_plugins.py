"""The packages of examples/plugins: found by their entry points, imported when they are named."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packages import EXAMPLES, install_project

import ldmref

ROOT = Path(ldmref.__file__).parents[1]
PROJECTS = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
TESTS = {  # the modules that the tests of a project need beyond ldmref's own
    "ldmref-dit": ("diffusers",),
    "ldmref-jax": ("jax",),
    "ldmref-pixart": ("diffusers", "transformers"),
    "ldmref-sa-sampler": (),
    "ldmref-tangential": (),
}
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is missing")


def run(command, folder, **environment):
    """Run a command with the environment of a user whose Python finds `folder`."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    env |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} | environment
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    return ran.stdout


@pytest.fixture
def site(tmp_path):
    """Return a folder in which the examples are installed, and ldmref can be imported."""
    folder = tmp_path / "site"
    for project in PROJECTS:
        install_project(EXAMPLES / project, folder)
    return folder


def run_ldmref(site, tmp_path, *arguments):
    command = [sys.executable, "-m", "ldmref", *arguments]
    return run(command, tmp_path, PYTHONPATH=f"{site}:{ROOT}")


def test_every_project_is_tested():
    assert set(PROJECTS) == set(TESTS)


def test_they_are_listed_without_being_imported(site, tmp_path):
    """The modules are replaced by ones that cannot be imported."""
    for package in site.glob("ldmref_*"):
        if package.is_symlink():
            package.unlink()
            package.with_suffix(".py").write_text("raise SystemExit('imported')\n")
    for command, name in (("backends", "jax"), ("samplers", "sa_solver")):
        rows = map(json.loads, run_ldmref(site, tmp_path, command, "--json").splitlines())
        (row,) = [row for row in rows if row["name"] == name]
        assert row["package"].startswith("ldmref-") and not row["reason"]


def test_a_sampler_by_its_name(site, tmp_path):
    """The image records the name, and is generated again from its record."""
    prompt = ["-p", "cat", "--seed", "1", "--steps", "2"]
    run_ldmref(site, tmp_path, "txt2img", *prompt, "--sampler", "SA_Solver", "-o", "a.png")
    assert '"sampler": "sa_solver"' in run_ldmref(site, tmp_path, "info", "a.png")
    run_ldmref(site, tmp_path, "run", "--from", "a.png", "-o", "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_guidance_by_its_name(site, tmp_path):
    prompt = ["-p", "cat", "--seed", "1", "--steps", "1"]
    run_ldmref(site, tmp_path, "txt2img", *prompt, "--guidance", "tcfg", "-o", "a.png")
    assert '"guidance": {"name": "tcfg"}' in run_ldmref(site, tmp_path, "info", "a.png")


@needs_jax
def test_a_backend_by_its_name(site, tmp_path):
    """A text encoder, since a whole model takes ten seconds to compile."""
    code = """
import numpy as np
import ldmref
models = [ldmref.random_model("tiny", backend=name) for name in ("numpy", "jax")]
a, b = (model.backend.to_numpy(model.encode_text(["a red cat"])) for model in models)
print(models[1].backend.describe()["name"])
print(np.abs(a - b).max() / np.abs(a).max())
"""
    command = [sys.executable, "-c", code]
    name, difference = run(command, tmp_path, PYTHONPATH=f"{site}:{ROOT}").splitlines()
    assert name == "jax" and float(difference) < 1e-5


def test_dit_is_understood_by_every_tool(tmp_path):
    """Its own tests, in a copy that is found by its entry point alone."""
    for module in TESTS["ldmref-dit"]:
        pytest.importorskip(module)
    copy = tmp_path / "ldmref-dit"
    shutil.copytree(EXAMPLES / "ldmref-dit", copy)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(copy / "tests")]
    assert " passed" in run(command, tmp_path, PYTHONPATH=str(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("project", PROJECTS)
def test_the_tests_of_a_project(project, tmp_path):
    """As its README runs them, in a copy."""
    for module in TESTS[project]:
        pytest.importorskip(module)
    copy = tmp_path / project
    shutil.copytree(EXAMPLES / project, copy)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(copy / "tests")]
    assert " passed" in run(command, tmp_path, PYTHONPATH=str(ROOT))


@pytest.mark.slow
def test_pip_installs_each_on_its_own(tmp_path):
    """In a new environment with pip, and links to the packages that ldmref needs."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is missing")
    packages = Path(
        run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path
        ).strip()
    )
    here = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "core.pth").write_text("\n".join([str(ROOT), *here]) + "\n")
    if (packages / "setuptools").exists():  # of Python 3.11, older than the one that is linked
        run([python, "-m", "pip", "uninstall", "-q", "-y", "setuptools"], tmp_path)
    pip = [python, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation"]
    for project in PROJECTS:
        copy = tmp_path / project
        shutil.copytree(EXAMPLES / project, copy)
        run([*pip, str(copy)], tmp_path)
    for command, name in (("backends", "jax"), ("samplers", "sa_solver")):
        assert name in run([python, "-m", "ldmref", command], tmp_path)
    image = ["txt2img", "-p", "cat", "--steps", "1", "--sampler", "sa_solver", "-o", "a.png"]
    run([python, "-m", "ldmref", *image], tmp_path)
    run([python, "-m", "pip", "uninstall", "-y", "ldmref-sa-sampler"], tmp_path)
    assert "sa_solver" not in run([python, "-m", "ldmref", "samplers"], tmp_path)
