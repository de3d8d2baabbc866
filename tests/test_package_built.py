"""The source distribution and the wheel: built, installed in a fresh environment and tried."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://example.org/ldmref"
IGNORED = shutil.ignore_patterns(
    ".git", ".venv*", "build", "dist", "runs", "mutants", "__pycache__", ".*_cache", ".hypothesis"
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the source distribution, and the wheel from it."""
    pytest.importorskip("hatchling")
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=IGNORED)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source]
    env = os.environ | {"LDMREF_REPOSITORY": f"{REPOSITORY}/"}
    ran = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a fresh environment, with links to its dependencies.

    Returns:
        The folder of the environment.
    """
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    ran = subprocess.run([*pip, packages[1]], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    sys.path.insert(0, str(ROOT / "tests" / "docs"))
    try:
        from environments import core_distributions, link
    finally:
        del sys.path[0]
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    ran = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    for distribution in core_distributions():
        link(distribution, Path(ran.stdout.strip()))
    return folder


def run(folder: Path, work: Path, *command: str) -> str:
    """Run a program of the environment away from the checkout; return what it printed."""
    env = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(work), "LANG": "C.UTF-8"}
    program = folder / "bin" / command[0]
    ran = subprocess.run([program, *command[1:]], cwd=work, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return ran.stdout


@pytest.mark.slow
def test_the_source_distribution_holds_the_legal_and_the_policy_files(packages):
    with tarfile.open(packages[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "SECURITY.md", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md"}
    wanted |= {"docs/conf.py", "docs/README.md", "tests/conftest.py", "ldmref/py.typed"}
    wanted |= {"scripts/package_metadata.py", "Makefile", "pyproject.toml"}
    assert wanted <= names


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone(packages):
    names = zipfile.ZipFile(packages[1]).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {re.sub(r"-[\d.]+\.", ".", top) for top in tops} == {"ldmref", "ldmref.dist-info"}
    assert "ldmref/py.typed" in names and "ldmref/assets/emoji/model.safetensors" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert packages[1].stat().st_size < 40e6


@pytest.mark.slow
def test_an_index_can_show_the_readme(packages):
    wheel = zipfile.ZipFile(packages[1])
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    metadata = message_from_string(wheel.read(name).decode("utf-8"))
    assert metadata["Description-Content-Type"] == "text/markdown"
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert urls["Repository"] == REPOSITORY
    assert {"Documentation", "Changelog", "Issues"} < {*urls}
    text = metadata.get_payload()
    targets = re.findall(r"\]\(([^)]+)\)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    assert targets and all(target.startswith(("https://", "#")) for target in targets)
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert images
    for image in images:
        path = image.removeprefix(f"{REPOSITORY}/raw/v{metadata['Version']}/")
        assert (ROOT / path).is_file()


@pytest.mark.slow
def test_the_installed_package_works_away_from_the_checkout(installed, tmp_path):
    place = run(installed, tmp_path, "python", "-c", "import ldmref; print(ldmref.__file__)")
    assert Path(place.strip()).is_relative_to(installed)
    run(installed, tmp_path, "ldmref", "txt2img", "-p", "red heart", "--seed", "1", "-o", "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).shape == (128, 128, 3)
    assert "red heart" in run(installed, tmp_path, "ldmref", "info", "a.png")
    assert "identities hold" in run(installed, tmp_path, "ldmref", "check", "--only", "q_sample")
    assert "embedded" in run(installed, tmp_path, "ldmref", "models")


README = """![a](docs/a.png) [b](docs/b.md#c) [d](https://e.org) [f](#g)
```
[h](i)
```
[![j](k.png)](https://l.org)
"""


def test_relative_links_become_those_of_the_release(monkeypatch):
    pytest.importorskip("hatchling")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from package_metadata import absolute_links

    assert absolute_links(README, "https://m.org/n", "1.0") == (
        "![a](https://m.org/n/raw/v1.0/docs/a.png) [b](https://m.org/n/blob/v1.0/docs/b.md#c)"
        " [d](https://e.org) [f](#g)\n```\n[h](i)\n```\n"
        "[![j](https://m.org/n/raw/v1.0/k.png)](https://l.org)\n"
    )


def test_every_relative_link_of_the_readme_is_found(monkeypatch):
    pytest.importorskip("hatchling")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from package_metadata import absolute_links, read_version

    text = absolute_links((ROOT / "README.md").read_text("utf-8"), REPOSITORY, read_version())
    paths = re.findall(rf"\]\({REPOSITORY}/(?:raw|blob)/v[^/]+/([^)#]+)", text)
    assert len(paths) > 40 and all((ROOT / path).exists() for path in paths)
